#pragma once
// Rings of shared-memory tiles between one loading thread and the warpgroups that compute: mbarriers and TMA.

#include <cstdint>
#include <cuda/ptx>

namespace ringscan::cuda {

namespace ptx = ::cuda::ptx;

/// Which slot of a ring comes next, and the parity its barriers complete with.
template <int kSlots>
struct RingPosition {
  int slot = 0;
  std::uint32_t parity = 0;

  __device__ void advance() {
    if (++slot == kSlots) {
      slot = 0;
      parity ^= 1;
    }
  }
};

__device__ inline void wait_barrier(std::uint64_t& barrier, std::uint32_t parity) {
  while (!ptx::mbarrier_try_wait_parity(&barrier, parity)) {
  }
}

/// The barriers of a ring: a slot is filled by the loader and emptied by every consumer warp.
template <int kSlots_>
struct RingBarriers {
  static constexpr int kSlots = kSlots_;
  using Position = RingPosition<kSlots>;
  std::uint64_t full[kSlots];
  std::uint64_t empty[kSlots];

  __device__ void init(std::uint32_t consumer_warps) {
    for (int i = 0; i < kSlots; ++i) {
      ptx::mbarrier_init(&full[i], 1);
      ptx::mbarrier_init(&empty[i], consumer_warps);
    }
  }
  // The loader's side. A slot that was never filled counts as empty: the parity before the first phase is 1.
  __device__ void wait_empty(Position at) { wait_barrier(empty[at.slot], at.parity ^ 1); }
  /// What the loader wrote before is seen after wait_full(), as are `bytes` that TMA brings to this barrier.
  __device__ void fill(Position at, std::uint32_t bytes) {
    ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared, &full[at.slot], bytes);
  }
  // A consumer's side.
  __device__ void wait_full(Position at) { wait_barrier(full[at.slot], at.parity); }
  __device__ void release(Position at) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(&empty[at.slot]);
  }
};

/// One box of a tensor map into shared memory; `barrier` counts its bytes.
template <int kRank>
__device__ void load_box(void* shared, const void* map, const std::int32_t (&coordinates)[kRank],
                         std::uint64_t& barrier) {
  ptx::cp_async_bulk_tensor(ptx::space_cluster, ptx::space_global, shared, map, coordinates, &barrier);
}

/// Warpgroups take turns at the tensor cores, so that one weighs scores while another multiplies: a token goes round.
/// Named barriers 1 .. kWarpgroups; 0 is __syncthreads'.
template <int kWarpgroups>
struct Turn {
  __device__ static void start(int warpgroup) {
    if (warpgroup == kWarpgroups - 1) pass(warpgroup);
  }
  __device__ static void take(int warpgroup) { asm volatile("bar.sync %0, 256;" ::"r"(1 + warpgroup) : "memory"); }
  __device__ static void pass(int warpgroup) {
    asm volatile("bar.arrive %0, 256;" ::"r"(1 + (warpgroup + 1) % kWarpgroups) : "memory");
  }
};

/// True in all 128 threads where it is true in each; named barrier `id`.
__device__ inline bool all_of_warpgroup(bool mine, int id) {
  std::uint32_t all;
  asm volatile("{.reg .pred p, q; setp.ne.u32 p, %1, 0; bar.red.and.pred q, %2, 128, p; selp.u32 %0, 1, 0, q;}"
               : "=r"(all)
               : "r"(static_cast<std::uint32_t>(mine)), "r"(id)
               : "memory");
  return all != 0;
}

}  // namespace ringscan::cuda
