#include "kernels/cuda/attend_launch_sm90.hpp"
#include "kernels/cuda/count_sm90.cuh"
#include "kernels/cuda/launch_persistent.cuh"

namespace ringscan::cuda {
namespace {

template <template <int> typename ShapeOf, CountWork kWork>
void launch(const CountParams& params, const CountMaps& maps, ElementType type, cudaStream_t stream) {
  visit_tile_shape(params.attend.head_dim, [&](auto shape) {
    using Shape = ShapeOf<decltype(shape)::kHeadDim>;
    if (type == ElementType::kBfloat16) {
      launch_persistent<CountTiles<Shape>, Shape::kThreads>(count_kernel<Shape, Bf16, kWork>, params.attend.num_items,
                                                            params, maps, stream);
    } else {
      launch_persistent<CountTiles<Shape>, Shape::kThreads>(count_kernel<Shape, Fp16, kWork>, params.attend.num_items,
                                                            params, maps, stream);
    }
  });
}

}  // namespace

void launch_count(const CountParams& params, const CountMaps& maps, ElementType type, bool adds, cudaStream_t stream) {
  if (adds) {
    launch<CountShape, CountWork::kCountAndAdd>(params, maps, type, stream);
  } else {
    launch<CountShape, CountWork::kCount>(params, maps, type, stream);
  }
}

void launch_guess(const CountParams& params, const CountMaps& maps, ElementType type, cudaStream_t stream) {
  launch<SampleShape, CountWork::kSample>(params, maps, type, stream);
}

}  // namespace ringscan::cuda
