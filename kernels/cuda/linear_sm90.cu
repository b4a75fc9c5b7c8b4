// Linear attention of bfloat16 on Hopper, without a normaliser: a block has a segment of one head and walks chunks of
// 64 tokens, which one warp brings by TMA with the chunk's decays (linear_loader_sm90.cuh); each warpgroup has 64 columns
// of v for itself, up to 128 of k (linear_columns_sm90.cuh). The formulas are those of linear_portable.cu.
//
// A summary walks backwards, and ends where all that lies farther has decayed to nothing.
#include <cuda/ptx>

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/linear_columns_sm90.cuh"
#include "kernels/cuda/linear_loader_sm90.cuh"
#include "kernels/cuda/linear_params.hpp"
#include "kernels/cuda/linear_sm90.hpp"
#include "kernels/cuda/tensor_map.hpp"

namespace ringscan::cuda {
namespace {

template <typename L>
__global__ void __launch_bounds__(L::kThreads, L::kBlocks)
    linear_sm90_kernel(const __grid_constant__ LinearDeviceParams p, const __grid_constant__ LinearMaps maps) {
  extern __shared__ std::uint8_t raw[];
  auto& shared = *reinterpret_cast<typename L::Shared*>(
      raw + (1024 - static_cast<std::uint32_t>(__cvta_generic_to_shared(raw)) % 1024) % 1024);
  if (threadIdx.x == 0) {
    for (int i = 0; i < L::kStages; ++i) {
      ptx::mbarrier_init(&shared.ring.full[i], 1 + 32);  // TMA's bytes, and the decays, each lane its own
      ptx::mbarrier_init(&shared.ring.empty[i], 4 * 32 * L::kGroups);
    }
    ptx::fence_mbarrier_init(ptx::sem_release, ptx::scope_cluster);
  }
  __syncthreads();
  if (threadIdx.x >= 128 * L::kGroups) {
    ChunkLoader<L>(p, maps, shared).run();
  } else {
    ColumnWalk<L>(p, maps, shared).run();
  }
}

template <typename L>
void launch_member(const LinearDeviceParams& p, const LinearMaps& maps, cudaStream_t stream) {
  constexpr int kSharedBytes = sizeof(typename L::Shared) + 1024;  // room to align
  const auto kernel = linear_sm90_kernel<L>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  const auto blocks = static_cast<unsigned>(p.batch * p.num_slots * p.segments.count);
  kernel<<<blocks, L::kThreads, kSharedBytes, stream>>>(p, maps);
  check(cudaGetLastError());
}
template <int kDim, int kGroups>
void launch_shape(const LinearDeviceParams& p, const LinearMaps& maps, bool output, cudaStream_t stream) {
  if (output) {
    launch_member<LinearLayout<kDim, kGroups, true>>(p, maps, stream);
  } else {
    launch_member<LinearLayout<kDim, kGroups, false>>(p, maps, stream);
  }
}

bool is_hopper() {
  int device = 0;
  int major = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major == 9;
}
bool readable(const AnyView& view) {
  return view.type == ElementType::kBfloat16 && tma_readable(view);
}

}  // namespace

bool takes_linear_sm90(const LinearTask& task, const LinearDeviceParams& p, bool output) {
  return p.head_dim <= 128 && p.v_dim <= 128 && !p.normalizes && p.tokens > 0 &&
         p.tokens < (std::int64_t{1} << 31) - kLinearChunk && readable(task.k) && readable(task.v) &&
         (!output || (readable(task.q) && readable(task.o))) && is_hopper();
}

void launch_linear_sm90(const LinearTask& task, const LinearDeviceParams& p, bool output, cudaStream_t stream) {
  LinearMaps maps{};
  maps.k = query_map(task.k, kLinearChunk);
  maps.v = query_map(task.v, kLinearChunk);
  if (output) {
    maps.q = query_map(task.q, kLinearChunk);
    maps.o = query_map(task.o, kLinearChunk);
  }
  if (p.head_dim <= 64 && p.v_dim <= 64) return launch_shape<64, 1>(p, maps, output, stream);
  if (p.head_dim <= 64) return launch_shape<64, 2>(p, maps, output, stream);
  if (p.v_dim <= 64) return launch_shape<128, 1>(p, maps, output, stream);
  return launch_shape<128, 2>(p, maps, output, stream);
}

}  // namespace ringscan::cuda
