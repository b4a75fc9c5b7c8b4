#pragma once
// The attend kernel of the ring mechanisms: a persistent grid; in each block one warp that loads (TMA) and warpgroups
// that multiply (wgmma), 64 query rows each. A work item is a tile of queries of one head; its keys are walked near
// first. The next tile's scores and the last tile's output run on the tensor cores while this one's scores are weighed.
//
// K and V rows lie permuted in shared memory, so that a thread's scores are contiguous keys: row 8 j + u of a tile is
// key u * (kKeys / 8) + j. Columns 8 j + 2 t + e of the accumulators belong to lane t of a quad, so u = 2 t + e.

#include "kernels/cuda/consumer_sm90.cuh"
#include "kernels/cuda/loader_sm90.cuh"

namespace ringscan::cuda {

template <typename Shape, typename Element, template <int> class WeightsOf>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    attend_kernel(const __grid_constant__ AttendParams p, const __grid_constant__ TensorMaps maps) {
  constexpr int kFp16Lift = 12;  // weights from 2^-36 on count, and there is room above 1
  using Weights = WeightsOf<std::is_same_v<Element, Fp16> ? kFp16Lift : 0>;
  extern __shared__ std::uint8_t raw[];
  auto& shared = *reinterpret_cast<SharedTiles<Shape>*>(
      raw + (1024 - static_cast<std::uint32_t>(__cvta_generic_to_shared(raw)) % 1024) % 1024);
  if (threadIdx.x == 0) {
    shared.q_ring.init(4 * Shape::kConsumers);
    shared.k_ring.init(4 * Shape::kConsumers);
    shared.v_ring.init(4 * Shape::kConsumers);
    for (int w = 0; w < Shape::kConsumers; ++w) shared.weighed[w] = shared.items_done[w] = 0;
    ptx::fence_mbarrier_init(ptx::sem_release, ptx::scope_cluster);
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Shape::kLoaderRegisters));
    if (threadIdx.x == 0) Loader<Shape, Weights>(p, maps, shared).run();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Shape::kConsumerRegisters));
    Consumer<Shape, Element, Weights>(p, shared).run();
  }
}

}  // namespace ringscan::cuda
