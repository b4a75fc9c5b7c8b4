#pragma once
// Stick-breaking: scores to weights A_j = beta_j prod_{l nearer} (1 - beta_l), beta = sigma(z), for two rows a thread.
//
// A thread holds, in either row, two runs of keys (e = 0, 1; run 2 lane + e of eight, nearest last), each walked near
// first in linear space. With x = z log2(e), g = 1 + 2^x = 1 / (1 - beta) and the stick R left by the keys nearer:
// R' = R / (g_4 g_3 g_2 g_1) after a group of keys 1 (far) to 4 (near), A_1 = 2^x_1 R', A_2 = 2^x_2 g_1 R', A_3 = 2^x_3
// g_2 g_1 R', ...: one reciprocal for the group. The eight runs are then joined over the quad, and the tile's stick
// goes into log2_stick once.

#include "kernels/cuda/score_math.cuh"
#include "kernels/cuda/weights_interface_sm90.cuh"

namespace ringscan::cuda {

/// kLift: weights, and with them out, are held times 2^kLift, so that fp16 keeps the small ones.
template <int kLift_>
class StickWeights : public WeightsInterface {
 public:
  static constexpr int kLift = kLift_;
  static constexpr bool kStopsEarly = true;
  static constexpr bool kSums = false;

  __device__ void begin(int r) { log2_stick_[r] = 0.0f; }
  __device__ void carry_in(int r, float first, float) { log2_stick_[r] = first; }

  template <int kSize>
  __device__ bool prepare(const float (&)[kSize], float, float (&)[2]) {
    return false;
  }
  template <int kSize>
  __device__ void weigh(float (&s)[kSize], float scale_log2, const int (&)[2]) {
    constexpr int kGroups = kSize / 4 / kGroup;
    float group_stick[2][2][kGroups];
    Run run[2][2];  // nvcc 13.0 would give default member initialisers to run[0] alone
#pragma unroll
    for (int i = 0; i < 4; ++i) run[i / 2][i % 2] = {1.0f, 0.0f};
#pragma unroll
    for (int group = kGroups - 1; group >= 0; --group) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        group_stick[i / 2][i % 2][group] = run[i / 2][i % 2].take(s, group * kGroup * 4 + i, scale_log2);
      }
    }
    float nearer[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) nearer[r] = join(r, run[r]);
#pragma unroll
    for (int group = kGroups - 1; group >= 0; --group) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float near = i % 2 == 1 ? nearer[i / 2] : nearer[i / 2] * run[i / 2][1].stick;
        const float factor = group_stick[i / 2][i % 2][group] * near;
#pragma unroll
        for (int key = 0; key < kGroup; ++key) s[(group * kGroup + key) * 4 + i] *= factor;
      }
    }
  }
  __device__ bool exhausted(float log2_epsilon) const {
    return log2_stick_[0] < log2_epsilon && log2_stick_[1] < log2_epsilon;
  }

  __device__ void close() {}
  __device__ float first(int r) const {
    return log2_stick_[r];
  }
  __device__ float sum(int) const {
    return 0.0f;
  }
  __device__ float normalizer(int) const {
    return exp2f(-kLift);
  }
  __device__ float statistic(int r) const {
    return exp2f(log2_stick_[r]);
  }

 private:
  static constexpr int kGroup = 4;  ///< keys that share a reciprocal
  /// Over this a key takes all but 2^-24 of the stick: no product over a group then leaves fp32's range.
  static constexpr float kMostScore = 24.0f;

  struct Run {
    float stick;  ///< what the run's keys so far leave
    float taken;  ///< the sum of their weights: 1 - stick without its cancellation

    /// The next kGroup keys, scores s[first], s[first + 4], ... with the nearest last. They become weights but for the
    /// factor that is returned: the stick at the far end of the group.
    template <int kSize>
    __device__ float take(float (&s)[kSize], int first, float scale_log2) {
      float farther = 1.0f;  // product of g over the group's keys so far
      float sum = 0.0f;
#pragma unroll
      for (int key = 0; key < kGroup; ++key) {
        float& x = s[first + 4 * key];
        const float odds = exp2_approx(fminf(x * scale_log2, kMostScore));
        x = odds * farther;
        farther *= 1.0f + odds;
        sum += x;
      }
      stick *= reciprocal_approx(farther);
      taken = fmaf(sum, stick, taken);
      return stick;
    }
  };

  /// Joins the quad's eight runs into log2_stick; returns the stick at the near end of this lane's runs, lifted.
  __device__ float join(int r, const Run (&run)[2]) {
    const int lane = static_cast<int>(threadIdx.x % 4);
    const float own = run[0].stick * run[1].stick;
    const float neighbour = quad_xor(own, 1);
    const float pair = own * neighbour;
    const float other_pair = quad_xor(pair, 2);
    const float nearer = (lane % 2 == 0 ? neighbour : 1.0f) * (lane < 2 ? other_pair : 1.0f);
    const float taken = quad_sum(nearer * fmaf(run[1].stick, run[0].taken, run[1].taken));
    const float lifted = nearer * exp2_approx(log2_stick_[r] + kLift);
    log2_stick_[r] += log2_of_rest(taken, pair * other_pair);
    return lifted;
  }

  /// log2 of the stick that is left once `taken` is; by the series of log2(1 - taken) where 1 - taken loses digits,
  /// from the product of the keys' own where it cancels.
  __device__ static float log2_of_rest(float taken, float stick) {
    const float tail = fmaf(taken, fmaf(taken, fmaf(taken, 0.2f, 0.25f), 1.0f / 3.0f), 0.5f);
    const float little = -kLog2E * fmaf(taken * taken, tail, taken);
    const float much = log2_approx(taken < 0.5f ? 1.0f - taken : stick);
    return taken < 0x1p-5f ? little : much;
  }

  float log2_stick_[2];
};

}  // namespace ringscan::cuda
