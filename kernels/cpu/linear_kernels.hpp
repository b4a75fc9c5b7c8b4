#pragma once

#include "kernels/linear_kernels.hpp"

namespace ringscan::cpu {

/// Of this machine's best instruction set; there is nothing of a caller in it.
const LinearKernels& linear_kernels();

}  // namespace ringscan::cpu
