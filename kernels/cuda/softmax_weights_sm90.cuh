#pragma once
// Softmax: scores to weights 2^(x - reference), x = scale log2(e) <q, k>, for two rows a thread.

#include "kernels/cuda/score_math.cuh"
#include "kernels/cuda/weights_interface_sm90.cuh"

namespace ringscan::cuda {

/// kLift: weights, and with them out and sum, are held times 2^kLift, so that fp16 keeps the small ones.
///
/// Weights are relative to a row's reference, its largest score so far or up to kSlack less: a tile whose scores stay below
/// that has nothing to do for out, and the lanes of its rows need not agree on their largest score.
template <int kLift_>
class SoftmaxWeights : public WeightsInterface {
 public:
  static constexpr int kLift = kLift_;
  static constexpr bool kRescales = true;

  __device__ void begin(int r) {
    reference_[r] = -INFINITY;
    sum_[r] = 0.0f;
  }
  __device__ void carry_in(int r, float first, float sum) {
    reference_[r] = first;
    sum_[r] = threadIdx.x % 4 == 0 ? sum * exp2f(kLift) : 0.0f;  // the four lanes' sums are added at the end
  }

  /// Before weigh(): raises references where scores ask for it. Where it returns true, which is of the whole warp, out has
  /// to be multiplied by `rescale`.
  template <int kSize>
  __device__ bool prepare(const float (&s)[kSize], float scale_log2, float (&rescale)[2]) {
    const float lane_most[2] = {lane_max(s, 0), lane_max(s, 1)};
    if (!__any_sync(0xFFFFFFFFu, exceed(lane_most, scale_log2))) return false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = s[2 * r];
#pragma unroll
      for (int i = 0; i < kSize; i += 4) most = fmaxf(most, fmaxf(s[i + 2 * r], s[i + 2 * r + 1]));
      raise(r, quad_max(most) * scale_log2, rescale[r]);
    }
    return true;
  }
  /// Scores become weights.
  template <int kSize>
  __device__ void weigh(float (&s)[kSize], float scale_log2, const int (&)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float shift = reference(r) - kLift;
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
      add(r, sum[0] + sum[1]);
    }
  }

  /// After the last tile, by all lanes.
  __device__ void close() {
    for (int r = 0; r < 2; ++r) sum_[r] = quad_sum(sum_[r]);
  }
  __device__ float first(int r) const {
    return reference_[r];
  }
  __device__ float sum(int r) const {
    return sum_[r] * exp2f(-kLift);
  }
  /// What a finished row of out is multiplied by, and its lse.
  __device__ float normalizer(int r) const {
    return sum_[r] > 0.0f ? 1.0f / sum_[r] : 0.0f;
  }
  __device__ float statistic(int r) const {
    return (reference_[r] + log2f(sum_[r]) - kLift) * kLn2;
  }

 protected:
  /// Weights in fp16 end at 2^16; those in bf16 could have more, which would gain nothing.
  static constexpr float kSlack = kLift == 0 ? 8.0f : 15.75f - kLift;
  static_assert(kSlack >= 0.0f);

  /// Whether a score asks for another reference. `most` are the lane's largest, or where one is negative any of them.
  __device__ bool exceed(const float (&most)[2], float scale_log2) const {
    bool stay[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float limit = reference_[r] + kSlack;
      stay[r] = (limit >= 0.0f) & (most[r] * scale_log2 <= limit);  // no branch between the rows, which go side by side
    }
    return !(stay[0] & stay[1]);
  }
  /// Raises the row's reference to its largest score.
  __device__ void raise(int r, float tile_max, float& rescale) {
    const float before = reference_[r];
    reference_[r] = fmaxf(before, tile_max);
    rescale = exp2_approx(before - reference(r));
    sum_[r] *= rescale;
  }
  /// What is taken from scores.
  __device__ float reference(int r) const {
    return reference_[r] == -INFINITY ? 0.0f : reference_[r];  // no key seen: weights and sums stay 0, not NaN
  }
  __device__ void add(int r, float sum) { sum_[r] += sum; }

 private:
  template <int kSize>
  __device__ static float lane_max(const float (&s)[kSize], int r) {
    return largest_bits<kSize / 4>([&](int i) { return s[4 * i + 2 * r]; }, [&](int i) { return s[4 * i + 2 * r + 1]; });
  }

  float reference_[2];
  float sum_[2];  ///< this lane's keys alone, until close()
};

}  // namespace ringscan::cuda
