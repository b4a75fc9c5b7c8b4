#pragma once
// Cog in bf16: scores to weights sign(x) 2^|x| as they are, x = scale log2(e) <q, k>, for two rows a thread. bf16 has
// fp32's range, and no magnitude is under 1: until scores are large nothing has to be kept in range, and so no largest
// score is looked for before weights are made.

#include "kernels/cuda/cog_zeros_sm90.cuh"
#include "kernels/cuda/score_math.cuh"
#include "kernels/cuda/weights_interface_sm90.cuh"

namespace ringscan::cuda {

/// As CogWeights with a reference of 0. Rows whose sums grow too large are left as they were, for CogWeights to do again.
template <int kLift_>
class UnshiftedCogWeights : public WeightsInterface {
 public:
  static constexpr int kLift = kLift_;
  static_assert(kLift == 0, "fp16 ends at 2^16");
  static constexpr float kNotSeen = 0.0f;
  static constexpr bool kTakesBack = true;
  static constexpr bool kMayOverflow = true;

  __device__ void begin(int r) {
    sum_[r] = 0.0f;
    unseen_[r] = 0;
  }
  __device__ void carry_in(int r, float first, float sum) {
    sum_[r] = threadIdx.x % 4 == 0 ? sum * exp2f(first) : 0.0f;  // the four lanes' sums are added at the end
  }

  /// True, which is of the whole warp, where weights have to be taken back.
  template <int kSize>
  __device__ bool prepare(const float (&s)[kSize], float, float (&)[2]) {
    if (!__any_sync(0xFFFFFFFFu, CogZeros::any(s))) return false;
    zeros_.find(s);
    return true;
  }
  /// Scores become weights. A key that is not seen has the magnitude 1, which close() takes out again.
  template <int kSize>
  __device__ void weigh(float (&s)[kSize], float scale_log2, const int (&unseen)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum[2] = {0.0f, 0.0f};
#pragma unroll
      for (int i = 0; i < kSize; i += 4) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[i + 2 * r + e];
          const float weight = exp2_approx(fabsf(x * scale_log2));
          sum[e] += weight;
          x = copysignf(weight, x);
        }
      }
      sum_[r] += sum[0] + sum[1];
      unseen_[r] += unseen[r];
    }
  }
  template <int kSize>
  __device__ void take_back(std::uint32_t (&weights)[kSize]) const {
    zeros_.take_back(weights);
  }

  /// After the last tile, by all lanes.
  __device__ void close() {
    for (int r = 0; r < 2; ++r) {
      const float seen = sum_[r] - static_cast<float>(unseen_[r]);
      sum_[r] = quad_sum(seen < 0.0f ? 0.0f : seen);  // NaN stays
    }
  }
  /// After close(): false where weights, or what out adds up, may have left the range. NaN does not fit.
  __device__ bool fits() const { return sum_[0] <= kMostSum && sum_[1] <= kMostSum; }
  __device__ float first(int r) const { return sum_[r] > 0.0f ? 0.0f : -INFINITY; }
  __device__ float sum(int r) const { return sum_[r]; }
  /// What a finished row of out is multiplied by, and its lse.
  __device__ float normalizer(int r) const {
    return sum_[r] > 0.0f ? 1.0f / sum_[r] : 0.0f;
  }
  __device__ float statistic(int r) const {
    return log2f(sum_[r]) * kLn2;
  }

 private:
  /// Leaves 2^47 to the magnitudes of v.
  static constexpr float kMostSum = 0x1p80f;

  float sum_[2];   ///< this lane's keys alone, until close()
  int unseen_[2];  ///< of these, keys that are not seen
  CogZeros zeros_;
};

}  // namespace ringscan::cuda
