#pragma once
// Launches one member of the kernel family over a persistent grid.

#include "kernels/cuda/attend_launch_sm90.hpp"
#include "kernels/cuda/attend_sm90.cuh"
#include "kernels/cuda/launch_persistent.cuh"

namespace ringscan::cuda {

/// Inputs of `Element`.
template <template <int> class WeightsOf, typename Element>
void launch_member(const AttendParams& params, const TensorMaps& maps, cudaStream_t stream) {
  visit_tile_shape(params.head_dim, [&](auto shape) {
    using Shape = decltype(shape);
    launch_persistent<SharedTiles<Shape>, Shape::kThreads>(attend_kernel<Shape, Element, WeightsOf>, params.num_tasks(),
                                                           params, maps, stream);
  });
}

template <template <int> class WeightsOf>
void launch_family(const AttendParams& params, const TensorMaps& maps, ElementType type, cudaStream_t stream) {
  if (type == ElementType::kBfloat16) {
    launch_member<WeightsOf, Bf16>(params, maps, stream);
  } else {
    launch_member<WeightsOf, Fp16>(params, maps, stream);
  }
}

}  // namespace ringscan::cuda
