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
#pragma unroll
      for (int i = 0; i < kSize; i += 4) most = fmaxf(most, fmaxf(fabsf(s[i + 2 * r]), fabsf(s[i + 2 * r + 1])));
      const float shift = this->raise(r, quad_max(most) * scale_log2, rescale[r]) - kLift;
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
};

}  // namespace ringscan::cuda
