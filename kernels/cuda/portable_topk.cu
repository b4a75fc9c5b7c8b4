#include "kernels/cuda/portable_attend.cuh"

namespace ringscan::cuda::portable {

void launch_topk(const PortableParams& params, cudaStream_t stream) {
  launch_attend<TopkWeights>(params, stream);
}

}  // namespace ringscan::cuda::portable
