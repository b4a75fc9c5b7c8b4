#include "kernels/kernels.hpp"
#include "tests/kernels/blocks_under_test.hpp"

namespace ringscan::test {
namespace {

const Kernels& backend() {
  static const std::unique_ptr<Kernels> kernels = make_cuda_kernels(0);
  return *kernels;
}

}  // namespace

void for_each_ssm(const std::function<void(SsmKernels&)>& body) {
  body(*make_ssm_under_test());
}

void for_each_chela(const std::function<void(ChelaKernels&)>& body) {
  body(*make_chela_under_test());
}

std::unique_ptr<SsmKernels> make_ssm_under_test() {
  return backend().make_ssm();
}

std::unique_ptr<ChelaKernels> make_chela_under_test() {
  return backend().make_chela();
}

bool blocks_have_fixed_bits() {
  return false;
}

}  // namespace ringscan::test
