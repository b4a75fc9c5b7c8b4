#pragma once
// Cog: scores to weights sign(x) 2^(|x| - reference), x = scale log2(e) <q, k>, for two rows a thread. A score of zero has
// weight 0 and counts in the sum.

#include "kernels/cuda/softmax_weights_sm90.cuh"

namespace ringscan::cuda {

/// As of SoftmaxWeights, whose row states it has: the reference and the sum are of the magnitudes. A key that is not seen
/// is given the score 0, the least magnitude there is, and so the weight 0; its share of the sum is taken out again.
/// Scores of zero are rare, and so looked for in passing: most tiles have no work for them.
template <int kLift_>
class CogWeights : public SoftmaxWeights<kLift_> {
 public:
  static constexpr int kLift = kLift_;
  static constexpr float kNotSeen = 0.0f;
  static constexpr bool kTakesBack = true;

  /// Also true where weights have to be taken back.
  template <int kSize>
  __device__ bool prepare(const float (&s)[kSize], float scale_log2, float (&rescale)[2]) {
    const float bound[2] = {lane_bound(s, 0), lane_bound(s, 1)};
    const bool is_special = has_zeros(s) | this->exceed(bound, scale_log2);
    return __any_sync(0xFFFFFFFFu, is_special) && prepare_special(s, scale_log2, rescale);
  }
  template <int kSize>
  __device__ void weigh(float (&s)[kSize], float scale_log2, const int (&unseen)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float shift = this->reference(r) - kLift;
      float sum[2] = {0.0f, 0.0f};
#pragma unroll
      for (int i = 0; i < kSize; i += 4) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[i + 2 * r + e];
          const float weight = exp2_approx(fmaf(fabsf(x), scale_log2, -shift));
          sum[e] += weight;
          x = copysignf(weight, x);
        }
      }
      const float of_unseen = static_cast<float>(unseen[r]) * exp2_approx(-shift);
      this->add(r, fmaxf(sum[0] + sum[1] - of_unseen, 0.0f));
    }
  }

  /// Makes rounded weights, two in a register, of scores of zero 0. @pre prepare() returned true.
  template <int kSize>
  __device__ void take_back(std::uint32_t (&weights)[kSize]) const {
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      if (is_zero(2 * i)) weights[i] &= 0xFFFF0000u;
      if (is_zero(2 * i + 1)) weights[i] &= 0x0000FFFFu;
    }
  }

 private:
  /// What most tiles need not: raises references, and finds zeros_. False where neither is any.
  template <int kSize>
  __device__ bool prepare_special(const float (&s)[kSize], float scale_log2, float (&rescale)[2]) {
    static_assert(kSize <= 64);
    zeros_[0] = zeros_[1] = 0;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      if (s[i] == 0.0f) zeros_[i / 2 % 2] |= bit(i);
    }
    const float most[2] = {lane_max(s, 0), lane_max(s, 1)};
    const bool is_special = ((zeros_[0] | zeros_[1]) != 0) | this->exceed(most, scale_log2);
    if (!__any_sync(0xFFFFFFFFu, is_special)) return false;
#pragma unroll
    for (int r = 0; r < 2; ++r) this->raise(r, quad_max(most[r]) * scale_log2, rescale[r]);
    return true;
  }

  /// Score i of the thread's is of row i / 2 % 2.
  __device__ static constexpr std::uint32_t bit(int i) { return 1u << (i / 4 * 2 + i % 2); }
  __device__ bool is_zero(int i) const { return (zeros_[i / 2 % 2] & bit(i)) != 0; }

  /// Whether a score is +0. None is -0: that is not what a product of all zeros adds up to.
  template <int kSize>
  __device__ static bool has_zeros(const float (&s)[kSize]) {
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
  /// No less than the largest magnitude of the lane's scores: the largest sum of two.
  template <int kSize>
  __device__ static float lane_bound(const float (&s)[kSize], int r) {
    const auto pair = [&](int i) { return fabsf(s[4 * i + 2 * r]) + fabsf(s[4 * i + 2 * r + 1]); };
    return largest_bits<kSize / 8>([&](int i) { return pair(2 * i); }, [&](int i) { return pair(2 * i + 1); });
  }
  template <int kSize>
  __device__ static float lane_max(const float (&s)[kSize], int r) {
    return largest_bits<kSize / 4>([&](int i) { return fabsf(s[4 * i + 2 * r]); },
                                   [&](int i) { return fabsf(s[4 * i + 2 * r + 1]); });
  }

  std::uint32_t zeros_[2];  ///< of the tile, in each row, see bit(); known where prepare() returned true
};

}  // namespace ringscan::cuda
