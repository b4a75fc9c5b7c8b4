#include "kernels/cuda/scan.cuh"

namespace ringscan::cuda {

void launch_scan_precise(const ScanParams& params, cudaStream_t stream) {
  launch_scan<true, ScanElements::kAny>(params, stream);
}

}  // namespace ringscan::cuda
