#include "kernels/cuda/topk_weights_sm90.cuh"

#include "kernels/cuda/launch_sm90.cuh"

namespace ringscan::cuda {

void launch_topk(const AttendParams& params, const TensorMaps& maps, ElementType type, cudaStream_t stream) {
  launch_family<TopkWeights>(params, maps, type, stream);
}

}  // namespace ringscan::cuda
