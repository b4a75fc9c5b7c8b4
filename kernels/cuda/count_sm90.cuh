#pragma once
// The kernel of exact top-k's rounds of counting and of the sample before them, on Hopper.

#include "kernels/cuda/count_consumer_sm90.cuh"
#include "kernels/cuda/sample_consumer_sm90.cuh"

namespace ringscan::cuda {

enum class CountWork { kCount, kCountAndAdd, kSample };

template <typename Shape, typename Element, CountWork kWork>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    count_kernel(const __grid_constant__ CountParams p, const __grid_constant__ CountMaps maps) {
  extern __shared__ std::uint8_t raw[];
  auto& shared = *reinterpret_cast<CountTiles<Shape>*>(
      raw + (1024 - static_cast<std::uint32_t>(__cvta_generic_to_shared(raw)) % 1024) % 1024);
  if (threadIdx.x == 0) {
    shared.q_ring.init(4 * Shape::kConsumers);
    shared.k_ring.init(4 * Shape::kConsumers);
    ptx::fence_mbarrier_init(ptx::sem_release, ptx::scope_cluster);
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Shape::kLoaderRegisters));
    if (threadIdx.x == 0) CountLoader<Shape>(p, maps, shared).run();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Shape::kConsumerRegisters));
    if constexpr (kWork == CountWork::kSample) {
      SampleConsumer<Shape, Element>(p, shared).run();
    } else {
      CountConsumer<Shape, Element, kWork == CountWork::kCountAndAdd>(p, shared).run();
    }
  }
}

}  // namespace ringscan::cuda
