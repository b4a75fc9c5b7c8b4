#include "kernels/fft_blocks.hpp"

#include <algorithm>

namespace ringscan {
namespace {

/// The next even number without prime factors over 5: libraries have straight code for those.
std::int64_t fast_length(std::int64_t least) {
  std::int64_t best = 2;
  while (best < least) best *= 2;
  for (std::int64_t fives = 2; fives < best; fives *= 5) {
    for (std::int64_t threes = fives; threes < best; threes *= 3) {
      std::int64_t length = threes;
      while (length < least) length *= 2;
      best = std::min(best, length);
    }
  }
  return best;
}

}  // namespace

FftBlocks fft_blocks(std::int64_t tokens, std::int64_t width) {
  constexpr std::int64_t kShortest = 4096;
  const std::int64_t whole = fast_length(tokens + width - 1);
  std::int64_t part = kShortest;
  while (part < 4 * width) part *= 2;
  const std::int64_t length = std::min(whole, part);
  return {length, length - width + 1};
}

}  // namespace ringscan
