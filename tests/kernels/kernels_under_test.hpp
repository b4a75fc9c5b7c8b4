#pragma once
// The tests of this folder are compiled once for each backend; each backend's executable defines this.

#include <memory>

#include "kernels/kernels.hpp"

namespace ringscan::test {

std::unique_ptr<Kernels> make_kernels_under_test();

/// True where the bits of a result do not depend on how its keys and tokens are cut into aligned runs, and where work
/// left out by an early exit is counted pair by pair (docs/decisions.md: `reproducible` is the CPU's).
bool has_fixed_bits();
/// How far linear attention may be from the oracle, relative to the largest |v|, with fp32 states.
double linear_tolerance();

}  // namespace ringscan::test
