#include "hwy/targets.h"
#include "tests/kernels/blocks_under_test.hpp"

namespace ringscan::test {
namespace {

template <typename Body>
void for_each_target(const Body& body) {
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    body();
    hwy::SetSupportedTargetsForTest(0);
  }
}

}  // namespace

void for_each_ssm(const std::function<void(SsmKernels&)>& body) {
  for_each_target([&] { body(*make_cpu_ssm_kernels()); });
}

void for_each_chela(const std::function<void(ChelaKernels&)>& body) {
  for_each_target([&] { body(*make_cpu_chela_kernels()); });
}

std::unique_ptr<SsmKernels> make_ssm_under_test() {
  return make_cpu_ssm_kernels();
}

std::unique_ptr<ChelaKernels> make_chela_under_test() {
  return make_cpu_chela_kernels();
}

bool blocks_have_fixed_bits() {
  return true;
}

}  // namespace ringscan::test
