#pragma once
// Scores in the order of their bits, and thresholds on a product carried over to one of its factors.

#include <cstdint>

namespace ringscan::cuda {

inline constexpr std::int32_t kLargestScore = 0x7fffffff;
inline constexpr std::int32_t kUnderAllScores = -0x7fffffff - 1;

__device__ inline float score_of(std::int32_t ordered) {
  return __int_as_float(ordered ^ (ordered >> 31 & 0x7fffffff));
}
/// Of the bits as they are: -0 is under 0.
__device__ inline std::int32_t ordered_of(float score) {
  const std::int32_t bits = __float_as_int(score);
  return bits ^ (bits >> 31 & 0x7fffffff);
}
/// A score's bits, ordered as integers. -0 is 0, NaN the largest, so that it is chosen and seen.
__device__ inline std::int32_t ordered_bits(float score) {
  if (score != score) return kLargestScore;
  return ordered_of(__fadd_rn(score, 0.0f));
}

/// The least float f whose rounded product with `scale` > 0 is at least `x` (or over it); NaN where there is none.
__device__ inline float least_factor(float x, float scale, bool over) {
  const auto reaches = [&](std::int64_t factor) {
    const float product = __fmul_rn(score_of(static_cast<std::int32_t>(factor)), scale);
    return over ? product > x : product >= x;
  };
  std::int64_t low = ordered_of(-INFINITY);
  std::int64_t high = std::int64_t{ordered_of(INFINITY)} + 1;
  // Most often it is within a few units of the quotient.
  const std::int64_t quotient = ordered_of(x / scale);
  const std::int64_t under = min(max(quotient - 8, low), high);
  const std::int64_t above = min(max(quotient + 8, low), high);
  if (!reaches(under)) low = under;
  if (reaches(above)) high = above;
  while (low < high) {
    const std::int64_t middle = (low + high) >> 1;
    if (reaches(middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return score_of(static_cast<std::int32_t>(low));
}

}  // namespace ringscan::cuda
