#pragma once
// Softmax: scores to weights 2^(x - max), x = scale log2(e) <q, k>, for two rows a thread.

#include "kernels/cuda/score_math.cuh"

namespace ringscan::cuda {

/// kLift: weights, and with them out and sum, are held times 2^kLift, so that fp16 keeps the small ones.
template <int kLift_>
class SoftmaxWeights {
 public:
  static constexpr int kLift = kLift_;
  static constexpr bool kStopsEarly = false;
  static constexpr float kNotSeen = -INFINITY;
  static constexpr bool kRescales = true;
  static constexpr bool kChooses = false;

  __device__ void begin(int r) {
    max_[r] = -INFINITY;
    sum_[r] = 0.0f;
  }
  __device__ void carry_in(int r, float first, float sum) {
    max_[r] = first;
    sum_[r] = threadIdx.x % 4 == 0 ? sum * exp2f(kLift) : 0.0f;  // the four lanes' sums are added at the end
  }

  /// Scores become weights; out has to be multiplied by `rescale` before they are added.
  template <int kSize>
  __device__ void weigh(float (&s)[kSize], float scale_log2, const int (&)[2], float (&rescale)[2]) {
    float tile_max[2];
    find_max(s, tile_max);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float shift = raise(r, tile_max[r] * scale_log2, rescale[r]) - kLift;
      float sum[2] = {0.0f, 0.0f};
#pragma unroll
      for (int i = 0; i < kSize; i += 4) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[i + 2 * r + e];
          x = exp2_approx(fmaf(x, scale_log2, -shift));
          sum[e] += x;
        }
      }
      add(r, rescale[r], sum[0] + sum[1]);
    }
  }
  __device__ bool exhausted(float) const {
    return false;
  }

  /// After the last tile, by all lanes.
  __device__ void close() {
    for (int r = 0; r < 2; ++r) sum_[r] = quad_sum(sum_[r]);
  }
  __device__ float first(int r) const {
    return max_[r];
  }
  __device__ float sum(int r) const {
    return sum_[r] * exp2f(-kLift);
  }
  /// What a finished row of out is multiplied by, and its lse.
  __device__ float normalizer(int r) const {
    return sum_[r] > 0.0f ? 1.0f / sum_[r] : 0.0f;
  }
  __device__ float statistic(int r) const {
    return (max_[r] + log2f(sum_[r]) - kLift) * kLn2;
  }

 protected:
  /// Raises the row's maximum; returns what is taken from scores.
  __device__ float raise(int r, float tile_max, float& rescale) {
    const float max = fmaxf(max_[r], tile_max);
    const float reference = max == -INFINITY ? 0.0f : max;  // no key seen: weights and sums stay 0, not NaN
    rescale = exp2_approx(max_[r] - reference);
    max_[r] = max;
    return reference;
  }
  __device__ void add(int r, float rescale, float sum) {
    sum_[r] = fmaf(sum_[r], rescale, sum);
  }

 private:
  /// The rows' largest scores in the quad; where all scores are negative, and the row's maximum is not, any of them.
  /// Bits of positive numbers are ordered as the numbers are, and of three integers the chip finds the largest in one
  /// instruction.
  template <int kSize>
  __device__ void find_max(const float (&s)[kSize], float (&tile_max)[2]) const {
    int most[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      most[r] = __float_as_int(s[2 * r]);
#pragma unroll
      for (int i = 0; i < kSize; i += 4) {
        most[r] = __vimax3_s32(most[r], __float_as_int(s[i + 2 * r]), __float_as_int(s[i + 2 * r + 1]));
      }
      most[r] = quad_max(most[r]);
      tile_max[r] = __int_as_float(most[r]);
    }
    const bool unsure = (most[0] < 0 && !(max_[0] >= 0.0f)) || (most[1] < 0 && !(max_[1] >= 0.0f));
    if (!__any_sync(0xFFFFFFFFu, unsure)) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      tile_max[r] = s[2 * r];
#pragma unroll
      for (int i = 0; i < kSize; i += 4) tile_max[r] = fmaxf(tile_max[r], fmaxf(s[i + 2 * r], s[i + 2 * r + 1]));
      tile_max[r] = quad_max(tile_max[r]);
    }
  }

  float max_[2];
  float sum_[2];  ///< this lane's keys alone, until close()
};

}  // namespace ringscan::cuda
