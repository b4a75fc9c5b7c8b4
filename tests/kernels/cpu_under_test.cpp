#include "tests/kernels/kernels_under_test.hpp"

namespace ringscan::test {

std::unique_ptr<Kernels> make_kernels_under_test() {
  return make_cpu_kernels();
}

bool has_fixed_bits() {
  return true;
}
double linear_tolerance() {
  return 2e-6;
}

}  // namespace ringscan::test
