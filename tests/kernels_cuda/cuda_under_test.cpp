#include "tests/kernels/kernels_under_test.hpp"
#include "tests/support/staged_kernels.hpp"

namespace ringscan::test {

std::unique_ptr<Kernels> make_kernels_under_test() {
  return std::make_unique<StagedKernels>(make_cuda_kernels(0));
}

bool has_fixed_bits() {
  return false;
}
double linear_tolerance() {
  return 1e-5;
}

}  // namespace ringscan::test
