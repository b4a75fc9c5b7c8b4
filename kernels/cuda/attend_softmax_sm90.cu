#include "kernels/cuda/launch_sm90.cuh"
#include "kernels/cuda/softmax_weights_sm90.cuh"

namespace ringscan::cuda {

void launch_softmax(const AttendParams& params, const TensorMaps& maps, ElementType type, cudaStream_t stream) {
  launch_family<SoftmaxWeights>(params, maps, type, stream);
}

}  // namespace ringscan::cuda
