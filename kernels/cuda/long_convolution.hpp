#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "kernels/chela_kernels.hpp"

namespace ringscan::cuda {

/// Of the device, for one convolution: enough to fill it, and little beside activations.
inline constexpr std::int64_t kConvolutionScratch = std::int64_t{256} << 20;

/// By cuFFT, in the blocks that the CPU takes, as many lines at a time as `scratch_bytes` have place for (at least one
/// line and one transform); work goes through the stream. @throws Error(kFailure) where a transform would have more
/// than 2^31 - 1 elements.
std::unique_ptr<LongConvolution> make_long_convolution(std::int64_t tokens, std::int64_t width, std::int64_t channels,
                                                       cudaStream_t stream,
                                                       std::int64_t scratch_bytes = kConvolutionScratch);

/// How many lines go together where there are enough.
std::int64_t convolution_lines(std::int64_t tokens, std::int64_t width);

}  // namespace ringscan::cuda
