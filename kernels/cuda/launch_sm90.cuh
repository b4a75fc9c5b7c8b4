#pragma once
// Launches one member of the kernel family over a persistent grid.

#include <algorithm>

#include "kernels/cuda/attend_launch_sm90.hpp"
#include "kernels/cuda/attend_sm90.cuh"
#include "kernels/cuda/check.hpp"

namespace ringscan::cuda {

template <typename Shape, typename Element, template <int> class WeightsOf>
void launch_member(const AttendParams& params, const TensorMaps& maps, cudaStream_t stream) {
  constexpr int kSharedBytes = sizeof(SharedTiles<Shape>) + 1024;  // room to align
  const auto kernel = attend_kernel<Shape, Element, WeightsOf>;
  int device = 0;
  int num_multiprocessors = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&num_multiprocessors, cudaDevAttrMultiProcessorCount, device));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  const unsigned blocks = std::min(static_cast<unsigned>(num_multiprocessors), params.num_items);
  kernel<<<blocks, Shape::kThreads, kSharedBytes, stream>>>(params, maps);
  check(cudaGetLastError());
}

template <template <int> class WeightsOf>
void launch_family(const AttendParams& params, const TensorMaps& maps, ElementType type, cudaStream_t stream) {
  visit_tile_shape(params.head_dim, [&](auto shape) {
    using Shape = decltype(shape);
    if (type == ElementType::kBfloat16) {
      launch_member<Shape, Bf16, WeightsOf>(params, maps, stream);
    } else {
      launch_member<Shape, Fp16, WeightsOf>(params, maps, stream);
    }
  });
}

}  // namespace ringscan::cuda
