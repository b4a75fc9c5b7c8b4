#include "kernels/cuda/launch_sm90.cuh"
#include "kernels/cuda/stick_weights_sm90.cuh"

namespace ringscan::cuda {

void launch_stick_breaking(const AttendParams& params, const TensorMaps& maps, ElementType type, cudaStream_t stream) {
  launch_family<StickWeights>(params, maps, type, stream);
}

}  // namespace ringscan::cuda
