#pragma once

#include <cstdint>
#include <memory>

#include "kernels/chela_kernels.hpp"

namespace ringscan::cpu {

std::unique_ptr<LongConvolution> make_fft_convolution(std::int64_t tokens, std::int64_t width);
std::size_t fft_convolution_bytes(std::int64_t tokens, std::int64_t width);

}  // namespace ringscan::cpu
