#pragma once
// The blocks' part of the CUDA backend: selective scans, projections and convolutions.

#include <memory>

#include "kernels/chela_kernels.hpp"
#include "kernels/cuda/block_ops.hpp"
#include "kernels/cuda/device_memory.hpp"
#include "kernels/ssm_kernels.hpp"

namespace ringscan::cuda {

/// Tasks may lie in memory of the host, the device (`memory`, their work_memory(), on the same stream) or both
/// (memory()); work goes through the stream, and is through when a function returns unless all of it lies on the
/// device. Stream and memory must outlive it. scan() by this library's kernels (states of up to 128, the CPU's beyond),
/// project() by cuBLAS in fp32. Bits depend on how tokens are cut into runs.
std::unique_ptr<SsmKernels> make_ssm_kernels(const Stream& stream, MemorySpace& memory);

/// convolve() of a task that lies anywhere.
void convolve_from_anywhere(DeviceConv task, cudaStream_t stream);

/// Likewise; long convolutions by cuFFT.
std::unique_ptr<ChelaKernels> make_chela_kernels(const Stream& stream, MemorySpace& memory);

}  // namespace ringscan::cuda
