#include "kernels/cuda/cog_weights_sm90.cuh"
#include "kernels/cuda/launch_sm90.cuh"
#include "kernels/cuda/unshifted_cog_weights_sm90.cuh"

namespace ringscan::cuda {

void launch_cog(const AttendParams& params, const TensorMaps& maps, ElementType type, cudaStream_t stream) {
  if (params.overflows.tasks != nullptr) launch_member<UnshiftedCogWeights, Bf16>(params, maps, stream);
  launch_family<CogWeights>(params, maps, type, stream);
}

}  // namespace ringscan::cuda
