#include "kernels/cuda/scan.cuh"

namespace ringscan::cuda {

void launch_scan_fast(const ScanParams& params, cudaStream_t stream) {
  launch_scan<false>(params, stream);
}

}  // namespace ringscan::cuda
