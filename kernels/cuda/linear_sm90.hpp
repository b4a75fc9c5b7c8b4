#pragma once
// Linear attention on Hopper's tensor cores: what linear.cu hands to it.

#include <cuda_runtime_api.h>

#include "kernels/cuda/linear_params.hpp"

namespace ringscan::cuda {

/// Whether it can: a Hopper device, bfloat16 that TMA can read, at most 128 by 128, no normaliser.
bool takes_linear_sm90(const LinearTask& task, const LinearDeviceParams& params, bool output);

/// One pass, summaries or output. A segment's summary counts what its last tokens leave until the log decay from there
/// on is under -32, and its Lambda is that of these tokens then.
void launch_linear_sm90(const LinearTask& task, const LinearDeviceParams& params, bool output, cudaStream_t stream);

}  // namespace ringscan::cuda
