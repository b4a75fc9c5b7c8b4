#pragma once
// Exact top-k: softmax over the keys that a finished search chose.

#include "kernels/cuda/score_order.cuh"
#include "kernels/cuda/search.hpp"
#include "kernels/cuda/softmax_weights_sm90.cuh"

namespace ringscan::cuda {

/// The row's maximum may be that of a key that is not kept: its largest key is, so at the end there is no difference.
template <int kLift_>
class TopkWeights : public SoftmaxWeights<kLift_> {
 public:
  static constexpr bool kChooses = true;

  __device__ void choose_for(int r, const SearchRow* row, float scale_log2) {
    const float threshold = row == nullptr            ? INFINITY
                            : row->low == kUnderAllScores ? -INFINITY
                                                          : score_of(row->low);
    low_[r] = least_factor(threshold, scale_log2, false);
    above_[r] = least_factor(threshold, scale_log2, true);
    first_[r] = row == nullptr ? 0 : row->first;
  }

  /// Scores of a tile from position `tile_first` on: those that are not chosen become -infinity. NaN stays.
  template <int kSize>
  __device__ void choose(float (&s)[kSize], std::int64_t tile_first) {
    constexpr int kKeys = 2 * kSize;
    bool mixed[2];
    float threshold[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const std::int64_t cut = first_[r] - tile_first;
      mixed[r] = cut > 0 && cut < kKeys;
      threshold[r] = cut >= kKeys ? above_[r] : low_[r];
    }
    if (__any_sync(0xFFFFFFFFu, mixed[0] || mixed[1])) drop_ties<kSize>(s, tile_first, mixed);
#pragma unroll
    for (int i = 0; i < kSize; i += 4) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[i + 2 * r + e];
          x = x < threshold[r] ? -INFINITY : x;
        }
      }
    }
  }

 private:
  /// Keys of the threshold's score that lie before the first one kept.
  template <int kSize>
  __device__ void drop_ties(float (&s)[kSize], std::int64_t tile_first, const bool (&mixed)[2]) {
    constexpr int kRun = 2 * kSize / 8;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int cut = mixed[r] ? static_cast<int>(first_[r] - tile_first) - static_cast<int>(threadIdx.x % 4) * 2 * kRun
                               : -1;
#pragma unroll
      for (int i = 0; i < kSize; i += 4) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[i + 2 * r + e];
          if (e * kRun + i / 4 < cut && x < above_[r]) x = -INFINITY;
        }
      }
    }
  }

  float low_[2], above_[2];  ///< least scores that reach the threshold, and that are over it
  std::int64_t first_[2];
};

}  // namespace ringscan::cuda
