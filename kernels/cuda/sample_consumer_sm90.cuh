#pragma once
// Where a search of exact top-k looks first, on Hopper: what a few keys say.

#include <cuda_bf16.h>

#include "kernels/cuda/score_order.cuh"
#include "kernels/cuda/score_walk_sm90.cuh"
#include "kernels/cuda/search_rows.cuh"
#include "kernels/cuda/score_math.cuh"

namespace ringscan::cuda {

/// Guesses each row's range from a few keys, kept in registers: their quantile, and 3.5 standard deviations of its
/// rank to both sides. Decides nothing but the number of rounds.
template <typename Shape, typename Element>
class SampleConsumer : public ScoreWalk<Shape, Element> {
  using Walk = ScoreWalk<Shape, Element>;
  using typename Walk::Scores;
  using Walk::kScores, Walk::lane, Walk::key_of;
  using Packed = __nv_bfloat162;
  static constexpr int kTiles = kSampledKeys / Shape::kKeys;
  static constexpr int kPacked = kTiles * kScores / 4;  ///< pairs of scores of a row
  static_assert(kPacked <= 256);

 public:
  using Walk::Walk;

  __device__ void run() {
    WorkItem item;
    while (this->next(item)) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        if (tile < item.num_tiles) {
          this->queue(s_[tile]);
          this->arrive(s_[tile]);
        }
      }
      this->end_item();
      guess(item, 0);
      guess(item, 1);
    }
  }

 private:
  using Walk::p_;

  __device__ void guess(const WorkItem& item, int r) {
    // Keys that the row does not see stand in for those that it does where these are few.
    constexpr int kLeastSeen = 64;
    const std::int64_t row = item.row + this->row_of(r);
    const std::int64_t seen = min(last_seen(p_, row), p_.attend.num_keys - 1) - first_seen(p_, row) + 1;
    const bool sees_all = seen < kLeastSeen;
    const std::int64_t first_key = sees_all ? 0 : first_seen(p_, row);
    const std::int64_t last_key = sees_all ? p_.attend.num_keys - 1 : last_seen(p_, row);
    const float2 ends = mask_scores(item, r, first_key, last_key);
    const float least = ends.x;
    const float most = ends.y;
    Packed packed[kPacked];
    pack_scores(packed, r, least);
    const bool exists = this->exists(item, r);
    SearchRow* state = p_.rows + (exists ? this->stream_row(item, r) : 0);
    const std::int64_t num_visible = p_.first_query + row + 1;
    const auto count = static_cast<float>(last_key - first_key + 1);
    const float share = exists ? static_cast<float>(state->wanted) / static_cast<float>(num_visible) : 0.0f;
    const float rank = share * count;
    const float spread = 3.5f * sqrtf(rank * (1.0f - share)) + 3.0f;
    const float bottom = least + around(packed, most - least, rank + spread).x;
    float top = most;
    if (__any_sync(0xFFFFFFFFu, rank > spread)) top = least + around(packed, most - least, rank - spread).y;
    const float width = fmaxf(top - bottom, 1e-6f * fmaxf(fabsf(top), fabsf(bottom)));
    const float low = (bottom - width * (rank + spread < count ? 0.02f : 1.0f)) * p_.attend.scale_log2;
    const float high = (top + width * (rank > spread ? 0.02f : 1.0f)) * p_.attend.scale_log2;
    const bool takes =
        exists && state->phase == kNarrowing && fabsf(low) < 1e30f && fabsf(high) < 1e30f;  // not where one is NaN
    __syncwarp();  // all lanes have read
    if (!takes) return;
    p_.words[this->stream_row(item, r) * kListWords + lane() % 4 * kPartWords + kPartKeys] = 0;
    if (lane() % 4 != 0) return;
    state->phase = kListed;
    state->low = ordered_of(low + 0.0f);
    state->high = ordered_of(high + 0.0f);
    state->shift = shift_for(static_cast<std::uint64_t>(std::int64_t{state->high} - std::int64_t{state->low}));
  }

  /// Scores of row r of keys but [first_key, last_key] become -infinity. Returns the least and the largest of the others,
  /// of all lanes of the row.
  __device__ float2 mask_scores(const WorkItem& item, int r, std::int64_t first_key, std::int64_t last_key) {
    float least = INFINITY;
    float most = -INFINITY;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const typename Walk::TileKeys keys = this->keys_of(max(item.num_tiles - 1 - n, 0));
      const int begin = max(keys.begin, static_cast<int>(max(first_key - keys.start, std::int64_t{0})));
      int end = static_cast<int>(min(last_key - keys.start, std::int64_t{keys.end - 1})) + 1;
      if (n >= item.num_tiles) end = begin;
#pragma unroll
      for (int i = 0; i < kScores; i += 4) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& s = s_[n][i + 2 * r + e];
          const bool counts = key_of(i, e) >= begin && key_of(i, e) < end;
          least = fminf(least, counts ? s : INFINITY);
          s = counts ? s : -INFINITY;
          most = fmaxf(most, s);
        }
      }
    }
    return {-quad_max(-least), quad_max(most)};
  }
  /// Relative to the least.
  __device__ void pack_scores(Packed (&packed)[kPacked], int r, float least) const {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < kScores; i += 4) {
        packed[(n * kScores + i) / 4] = __floats2bfloat162_rn(s_[n][i + 2 * r] - least, s_[n][i + 2 * r + 1] - least);
      }
    }
  }

  /// Between which two scores `rank` others are passed, by bisection of [0, most] to a 4,096th or to neighbours in
  /// bfloat16; all lanes take part.
  __device__ static float2 around(const Packed (&packed)[kPacked], float most, float rank) {
    float2 ends{0.0f, most};
#pragma unroll 1
    for (int i = 0; i < 12; ++i) {
      const Packed middle = __float2bfloat162_rn(0.5f * (ends.x + ends.y));
      Packed over[2] = {__hge2(packed[0], middle), __hge2(packed[1], middle)};  // numbers of so few are exact
#pragma unroll
      for (int j = 2; j < kPacked; ++j) over[j % 2] = __hadd2(over[j % 2], __hge2(packed[j], middle));
      const float total = __low2float(over[0]) + __high2float(over[0]) + __low2float(over[1]) + __high2float(over[1]);
      (quad_sum(total) > rank ? ends.x : ends.y) = __low2float(middle);
    }
    return ends;
  }

  Scores s_[kTiles];
};

}  // namespace ringscan::cuda
