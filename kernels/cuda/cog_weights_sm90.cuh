#pragma once
// Cog: scores to weights sign(x) 2^(|x| - max), x = scale log2(e) <q, k>, for two rows a thread. A score of zero has
// weight 0 and counts in the sum.

#include "kernels/cuda/softmax_weights_sm90.cuh"

namespace ringscan::cuda {

/// As of SoftmaxWeights, whose row states it has: the maximum and the sum are of the magnitudes. A key that is not seen
/// is given the score 0, the least magnitude there is, and so the weight 0; its share of the sum is taken out again.
template <int kLift_>
class CogWeights : public SoftmaxWeights<kLift_> {
 public:
  static constexpr int kLift = kLift_;
  static constexpr float kNotSeen = 0.0f;

  template <int kSize>
  __device__ void weigh(float (&s)[kSize], float scale_log2, const int (&unseen)[2], float (&rescale)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = 0.0f;
      float least = INFINITY;
#pragma unroll
      for (int i = 0; i < kSize; i += 4) {
        most = fmaxf(most, fmaxf(fabsf(s[i + 2 * r]), fabsf(s[i + 2 * r + 1])));
        least = fminf(least, fminf(fabsf(s[i + 2 * r]), fabsf(s[i + 2 * r + 1])));
      }
      const float shift = this->raise(r, quad_max(most) * scale_log2, rescale[r]) - kLift;
      float sum;
      if (__any_sync(0xFFFFFFFFu, least == 0.0f)) {
        sum = weigh_row<true>(s, r, scale_log2, shift);
      } else {
        sum = weigh_row<false>(s, r, scale_log2, shift);
      }
      const float of_unseen = static_cast<float>(unseen[r]) * exp2_approx(-shift);
      this->add(r, rescale[r], fmaxf(sum - of_unseen, 0.0f));
    }
  }

 private:
  /// Returns the sum of the magnitudes. Where no score is 0, the sign is one bit.
  template <bool kHasZeros, int kSize>
  __device__ static float weigh_row(float (&s)[kSize], int r, float scale_log2, float shift) {
    float sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < kSize; i += 4) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& x = s[i + 2 * r + e];
        const float weight = exp2_approx(fmaf(fabsf(x), scale_log2, -shift));
        sum[e] += weight;
        x = kHasZeros && x == 0.0f ? 0.0f : copysignf(weight, x);
      }
    }
    return sum[0] + sum[1];
  }
};

}  // namespace ringscan::cuda
