#pragma once
// test_ssm.cpp and test_chela.cpp are compiled once for each backend; each backend's executable defines this.

#include <functional>
#include <memory>

#include "kernels/chela_kernels.hpp"
#include "kernels/ssm_kernels.hpp"

namespace ringscan::test {

/// Runs `body` with the kernels of each instruction set, or device, that this machine has.
void for_each_ssm(const std::function<void(SsmKernels&)>& body);
void for_each_chela(const std::function<void(ChelaKernels&)>& body);

/// The ones that a job would take.
std::unique_ptr<SsmKernels> make_ssm_under_test();
std::unique_ptr<ChelaKernels> make_chela_under_test();

/// True where bits do not depend on how tokens are cut into runs, and corrections end where nothing is left to correct.
bool blocks_have_fixed_bits();

}  // namespace ringscan::test
