#include "kernels/cuda/scan.cuh"

namespace ringscan::cuda {

void launch_scan_fast(const ScanParams& params, cudaStream_t stream) {
  const auto all_are = [&](ElementType type) {
    return params.u.type == type && params.delta.type == type && params.b.type == type && params.c.type == type &&
           (params.z.data == nullptr || params.z.type == type);
  };
  if (all_are(ElementType::kBfloat16)) {
    launch_scan<false, ScanElements::kBf16>(params, stream);
  } else if (all_are(ElementType::kFloat16)) {
    launch_scan<false, ScanElements::kFp16>(params, stream);
  } else {
    launch_scan<false, ScanElements::kAny>(params, stream);
  }
}

}  // namespace ringscan::cuda
