#pragma once

#include <cstdint>

namespace ringscan {

/// How a convolution is cut into transforms (overlap-save): each takes `length` inputs, of which the first width - 1
/// are those before its outputs. Depends on tokens and width alone.
struct FftBlocks {
  std::int64_t length = 0;   ///< of a transform; even
  std::int64_t outputs = 0;  ///< of a transform: length - width + 1
};

/// One transform of the whole sequence where kernels are about as long as it, else blocks of 4 widths or more: the
/// memory stays with the kernel, and most of each transform is output.
FftBlocks fft_blocks(std::int64_t tokens, std::int64_t width);

}  // namespace ringscan
