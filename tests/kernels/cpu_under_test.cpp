#include "tests/kernels/kernels_under_test.hpp"

namespace ringscan::test {

std::unique_ptr<Kernels> make_kernels_under_test() {
  return make_cpu_kernels();
}

}  // namespace ringscan::test
