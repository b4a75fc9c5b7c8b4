#pragma once
// Cog: scores to weights sign(x) 2^(|x| - reference), x = scale log2(e) <q, k>, for two rows a thread. A score of zero has
// weight 0 and counts in the sum.

#include "kernels/cuda/cog_zeros_sm90.cuh"
#include "kernels/cuda/softmax_weights_sm90.cuh"

namespace ringscan::cuda {

/// As of SoftmaxWeights, whose row states it has: the reference and the sum are of the magnitudes. A key that is not seen
/// is given the score 0, the least magnitude there is, and so the weight 0; its share of the sum is taken out again.
/// Does fp16, and again what was too large for UnshiftedCogWeights.
template <int kLift_>
class CogWeights : public SoftmaxWeights<kLift_> {
 public:
  static constexpr int kLift = kLift_;
  static constexpr float kNotSeen = 0.0f;
  static constexpr bool kTakesBack = true;
  static constexpr bool kDoesAgain = true;

  /// Also true where weights have to be taken back.
  template <int kSize>
  __device__ bool prepare(const float (&s)[kSize], float scale_log2, float (&rescale)[2]) {
    const float bound[2] = {lane_bound(s, 0), lane_bound(s, 1)};
    const bool is_special = CogZeros::any(s) | this->exceed(bound, scale_log2);
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

  template <int kSize>
  __device__ void take_back(std::uint32_t (&weights)[kSize]) const {
    zeros_.take_back(weights);
  }

 private:
  /// What most tiles need not: raises references, and finds zeros_. False where neither is any.
  template <int kSize>
  __device__ bool prepare_special(const float (&s)[kSize], float scale_log2, float (&rescale)[2]) {
    const bool has_zeros = zeros_.find(s);
    const float most[2] = {lane_max(s, 0), lane_max(s, 1)};
    if (!__any_sync(0xFFFFFFFFu, has_zeros | this->exceed(most, scale_log2))) return false;
#pragma unroll
    for (int r = 0; r < 2; ++r) this->raise(r, quad_max(most[r]) * scale_log2, rescale[r]);
    return true;
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

  CogZeros zeros_;  ///< of the tile; known where prepare() returned true
};

}  // namespace ringscan::cuda
