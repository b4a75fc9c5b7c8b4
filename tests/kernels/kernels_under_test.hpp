#pragma once
// The tests of this folder are compiled once for each backend; each backend's executable defines this.

#include <memory>

#include "kernels/kernels.hpp"

namespace ringscan::test {

std::unique_ptr<Kernels> make_kernels_under_test();

}  // namespace ringscan::test
