#pragma once
// Launches one member of the kernel family over a persistent grid.

#include "kernels/cuda/attend_launch_sm90.hpp"
#include "kernels/cuda/attend_sm90.cuh"
#include "kernels/cuda/launch_persistent.cuh"

namespace ringscan::cuda {

template <template <int> class WeightsOf>
void launch_family(const AttendParams& params, const TensorMaps& maps, ElementType type, cudaStream_t stream) {
  visit_tile_shape(params.head_dim, [&](auto shape) {
    using Shape = decltype(shape);
    if (type == ElementType::kBfloat16) {
      launch_persistent<SharedTiles<Shape>, Shape::kThreads>(attend_kernel<Shape, Bf16, WeightsOf>, params.num_tasks(), params,
                                                             maps, stream);
    } else {
      launch_persistent<SharedTiles<Shape>, Shape::kThreads>(attend_kernel<Shape, Fp16, WeightsOf>, params.num_tasks(), params,
                                                             maps, stream);
    }
  });
}

}  // namespace ringscan::cuda
