#pragma once
// Linear attention's part of the CUDA backend.

#include <memory>

#include "kernels/cuda/device_memory.hpp"
#include "kernels/linear_kernels.hpp"

namespace ringscan::cuda {

/// States in `memory` as fp32, work on its stream; functions return once their work is on it. Both must outlive it.
std::unique_ptr<LinearKernels> make_linear_kernels(const Stream& stream, DeviceMemory& memory);

}  // namespace ringscan::cuda
