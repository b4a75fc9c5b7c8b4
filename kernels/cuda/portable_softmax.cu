#include "kernels/cuda/portable_attend.cuh"

namespace ringscan::cuda::portable {

void launch_softmax(const PortableParams& params, cudaStream_t stream) {
  launch_attend<SoftmaxWeights>(params, stream);
}

}  // namespace ringscan::cuda::portable
