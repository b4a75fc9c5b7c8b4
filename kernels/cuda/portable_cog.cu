#include "kernels/cuda/portable_attend.cuh"

namespace ringscan::cuda::portable {

void launch_cog(const PortableParams& params, cudaStream_t stream) {
  launch_attend<CogWeights>(params, stream);
}

}  // namespace ringscan::cuda::portable
