#pragma once
// Cog's scores of zero: their weights are 0, though their magnitudes count in the sum. They are rare, and so looked for in
// passing: most tiles have no work for them.

#include <cstdint>

namespace ringscan::cuda {

/// Those among a thread's scores of a tile; score i is of row i / 2 % 2.
class CogZeros {
 public:
  /// Whether a score is +0. None is -0: that is not what a product of all zeros adds up to.
  template <int kSize>
  __device__ static bool any(const float (&s)[kSize]) {
    unsigned least[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) least[i] = min(__float_as_uint(s[2 * i]), __float_as_uint(s[2 * i + 1]));
#pragma unroll
    for (int i = 8; i < kSize / 2; ++i) {
      least[i % 8] = __vimin3_u32(least[i % 8], __float_as_uint(s[2 * i]), __float_as_uint(s[2 * i + 1]));
    }
    const unsigned of_three = __vimin3_u32(least[0], least[1], least[2]);
    const unsigned of_others = __vimin3_u32(least[3], least[4], least[5]);
    return __vimin3_u32(of_three, of_others, min(least[6], least[7])) == 0;
  }

  /// Notes which are 0. Returns whether any is.
  template <int kSize>
  __device__ bool find(const float (&s)[kSize]) {
    static_assert(kSize <= 64);
    zeros_[0] = zeros_[1] = 0;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      if (s[i] == 0.0f) zeros_[i / 2 % 2] |= bit(i);
    }
    return (zeros_[0] | zeros_[1]) != 0;
  }

  /// Makes their rounded weights, two in a register, 0. @pre find() was called for this tile.
  template <int kSize>
  __device__ void take_back(std::uint32_t (&weights)[kSize]) const {
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      if (is_zero(2 * i)) weights[i] &= 0xFFFF0000u;
      if (is_zero(2 * i + 1)) weights[i] &= 0x0000FFFFu;
    }
  }

 private:
  __device__ static constexpr std::uint32_t bit(int i) { return 1u << (i / 4 * 2 + i % 2); }
  __device__ bool is_zero(int i) const { return (zeros_[i / 2 % 2] & bit(i)) != 0; }

  std::uint32_t zeros_[2];
};

}  // namespace ringscan::cuda
