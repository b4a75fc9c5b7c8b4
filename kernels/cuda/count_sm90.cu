#include <algorithm>

#include "kernels/cuda/attend_launch_sm90.hpp"
#include "kernels/cuda/check.hpp"
#include "kernels/cuda/count_sm90.cuh"

namespace ringscan::cuda {
namespace {

template <typename Shape, typename Element, CountWork kWork>
void launch_member(const CountParams& params, const CountMaps& maps, cudaStream_t stream) {
  constexpr int kSharedBytes = sizeof(CountTiles<Shape>) + 1024;  // room to align
  const auto kernel = count_kernel<Shape, Element, kWork>;
  int device = 0;
  int num_multiprocessors = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&num_multiprocessors, cudaDevAttrMultiProcessorCount, device));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  const unsigned blocks = std::min(static_cast<unsigned>(num_multiprocessors), params.attend.num_items);
  kernel<<<blocks, Shape::kThreads, kSharedBytes, stream>>>(params, maps);
  check(cudaGetLastError());
}

template <CountWork kWork>
void launch(const CountParams& params, const CountMaps& maps, ElementType type, cudaStream_t stream) {
  visit_tile_shape(params.attend.head_dim, [&](auto shape) {
    using Shape = CountShape<decltype(shape)::kHeadDim>;
    if (type == ElementType::kBfloat16) {
      launch_member<Shape, Bf16, kWork>(params, maps, stream);
    } else {
      launch_member<Shape, Fp16, kWork>(params, maps, stream);
    }
  });
}

}  // namespace

void launch_count(const CountParams& params, const CountMaps& maps, ElementType type, bool adds, cudaStream_t stream) {
  if (adds) {
    launch<CountWork::kCountAndAdd>(params, maps, type, stream);
  } else {
    launch<CountWork::kCount>(params, maps, type, stream);
  }
}

void launch_guess(const CountParams& params, const CountMaps& maps, ElementType type, cudaStream_t stream) {
  launch<CountWork::kSample>(params, maps, type, stream);
}

}  // namespace ringscan::cuda
