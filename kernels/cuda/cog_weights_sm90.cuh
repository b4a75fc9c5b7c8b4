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
    float bound[2];
    find_bounds(s, scale_log2, bound);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float shift = this->raise(r, bound[r] * scale_log2, rescale[r]) - kLift;
      float sum[2] = {0.0f, 0.0f};
#pragma unroll
      for (int i = 0; i < kSize; i += 4) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[i + 2 * r + e];
          const float weight = exp2_approx(fmaf(fabsf(x), scale_log2, -shift));
          sum[e] += weight;
          // In the shade of the exponentials; a search for zeros and a branch would come before them.
          x = x == 0.0f ? 0.0f : copysignf(weight, x);
        }
      }
      const float of_unseen = static_cast<float>(unseen[r]) * exp2_approx(-shift);
      this->add(r, rescale[r], fmaxf(sum[0] + sum[1] - of_unseen, 0.0f));
    }
  }

 private:
  /// Up to this, in units of log2, a bound may stand in for the largest magnitude.
  static constexpr float kMostInexact = 40.0f;

  /// Of the rows' magnitudes in the quad: the largest, or where scores are small and weights need no lift, the largest
  /// sum of two, which is at most twice that and takes a third of the time.
  template <int kSize>
  __device__ static void find_bounds(const float (&s)[kSize], float scale_log2, float (&bound)[2]) {
    if constexpr (kLift == 0) {
      int most[2] = {0, 0};  // bits of numbers that are not negative, which are ordered as these are
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int i = 0; i < kSize; i += 8) {
          const float near = fabsf(s[i + 2 * r]) + fabsf(s[i + 2 * r + 1]);
          const float far = fabsf(s[i + 4 + 2 * r]) + fabsf(s[i + 4 + 2 * r + 1]);
          most[r] = __vimax3_s32(most[r], __float_as_int(near), __float_as_int(far));
        }
        most[r] = quad_max(most[r]);
        bound[r] = __int_as_float(most[r]);
      }
      const bool suffices = bound[0] * scale_log2 <= kMostInexact && bound[1] * scale_log2 <= kMostInexact;
      if (__all_sync(0xFFFFFFFFu, suffices)) return;
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      bound[r] = 0.0f;
#pragma unroll
      for (int i = 0; i < kSize; i += 4) bound[r] = fmaxf(bound[r], fmaxf(fabsf(s[i + 2 * r]), fabsf(s[i + 2 * r + 1])));
      bound[r] = quad_max(bound[r]);
    }
  }
};

}  // namespace ringscan::cuda
