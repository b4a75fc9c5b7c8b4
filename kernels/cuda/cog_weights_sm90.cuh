#pragma once
// Cog: scores to weights sign(x) 2^(|x| - max), x = scale log2(e) <q, k>, for two rows a thread. A score of zero has
// weight 0 and counts in the sum.

#include "kernels/cuda/softmax_weights_sm90.cuh"

namespace ringscan::cuda {

/// As of SoftmaxWeights, whose row states it has: the maximum and the sum are of the magnitudes.
template <int kLift_>
class CogWeights : public SoftmaxWeights<kLift_> {
 public:
  static constexpr int kLift = kLift_;

  template <int kSize>
  __device__ void weigh(float (&s)[kSize], float scale_log2, bool masked, float (&rescale)[2]) {
    if (masked) {
      weigh_tile<true>(s, scale_log2, rescale);
    } else {
      weigh_tile<false>(s, scale_log2, rescale);
    }
  }

 private:
  /// -1, 0 or 1, by the units that multiply: those that compare and select are busy enough.
  __device__ static float sign_of(float x) {
    return fmaf(2.0f, __saturatef(fmaf(x, 0x1p127f, 0.5f)), -1.0f);
  }
  /// -inf, which is not seen, stays the least.
  template <bool kMasked>
  __device__ static float magnitude(float x) {
    return kMasked && x == -INFINITY ? x : fabsf(x);
  }

  template <bool kMasked, int kSize>
  __device__ void weigh_tile(float (&s)[kSize], float scale_log2, float (&rescale)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float tile_max = magnitude<kMasked>(s[2 * r]);
#pragma unroll
      for (int i = 0; i < kSize; i += 4) {
        tile_max = fmaxf(tile_max, fmaxf(magnitude<kMasked>(s[i + 2 * r]), magnitude<kMasked>(s[i + 2 * r + 1])));
      }
      const float shift = this->raise(r, quad_max(tile_max) * scale_log2, rescale[r]) - kLift;
      float sum[2] = {0.0f, 0.0f};
#pragma unroll
      for (int i = 0; i < kSize; i += 4) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[i + 2 * r + e];
          const float weight = exp2_approx(fmaf(magnitude<kMasked>(x), scale_log2, -shift));
          sum[e] += weight;
          x = weight * sign_of(x);
        }
      }
      this->add(r, rescale[r], sum[0] + sum[1]);
    }
  }
};

}  // namespace ringscan::cuda
