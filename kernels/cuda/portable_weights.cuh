#pragma once
// Scores to weights for one tile of 64 x 64, in registers: softmax, cog and the keys that a top-k search chose. `x` is
// scale log2(e) <q, k>, -inf where a row does not see the key. Each of a row's 16 lanes holds the row's state.

#include "kernels/cuda/portable_tile.cuh"

namespace ringscan::cuda::portable {

struct LseState {
  float max[4], sum[4];

  __device__ void begin(const PortableParams& p, const QueryTile& tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool carried = !p.starts && tile.exists(p, i);
      const std::int64_t at = tile.partial_row(p, QueryTile::row_of(i));
      max[i] = carried ? p.first[at] : -INFINITY;
      sum[i] = carried ? p.sum[at] : 0.0f;
    }
  }
  __device__ void end(const PortableParams& p, const QueryTile& tile) const {
    if (QueryTile::tx() != 0) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!tile.exists(p, i)) continue;
      const std::int64_t at = tile.partial_row(p, QueryTile::row_of(i));
      p.first[at] = max[i];
      p.sum[at] = sum[i];
    }
  }
  /// magnitudes become 2^(magnitude - max); they are added to the sum, the old one times `rescale`.
  __device__ void weigh(float (&magnitude)[4][4], float (&rescale)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float most = fmaxf(fmaxf(magnitude[i][0], magnitude[i][1]), fmaxf(magnitude[i][2], magnitude[i][3]));
      most = fmaxf(max[i], reduce_row(most, [](float a, float b) { return fmaxf(a, b); }));
      const float reference = most == -INFINITY ? 0.0f : most;  // no key seen: weights stay 0, not NaN
      rescale[i] = exp2f(max[i] - reference);
      max[i] = most;
      float total = 0.0f;
#pragma unroll
      for (int j = 0; j < 4; ++j) total += magnitude[i][j] = exp2f(magnitude[i][j] - reference);
      sum[i] = fmaf(sum[i], rescale[i], reduce_row(total, [](float a, float b) { return a + b; }));
    }
  }
};

struct SoftmaxWeights {
  LseState state;
  __device__ void begin(const PortableParams& p, const QueryTile& tile) { state.begin(p, tile); }
  __device__ void end(const PortableParams& p, const QueryTile& tile) const { state.end(p, tile); }
  __device__ void weigh(float (&x)[4][4], std::int64_t, float (&rescale)[4]) { state.weigh(x, rescale); }
};

/// sign(z) 2^(|x| - max): a zero score has weight 0 and counts in the sum.
struct CogWeights {
  LseState state;
  __device__ void begin(const PortableParams& p, const QueryTile& tile) { state.begin(p, tile); }
  __device__ void end(const PortableParams& p, const QueryTile& tile) const { state.end(p, tile); }
  __device__ void weigh(float (&x)[4][4], std::int64_t, float (&rescale)[4]) {
    float magnitude[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) magnitude[i][j] = x[i][j] == -INFINITY ? -INFINITY : fabsf(x[i][j]);
    }
    state.weigh(magnitude, rescale);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) x[i][j] = x[i][j] == 0.0f ? 0.0f : copysignf(magnitude[i][j], x[i][j]);
    }
  }
};

struct TopkWeights {
  LseState state;
  std::int32_t low[4];
  std::int64_t first[4];
  __device__ void begin(const PortableParams& p, const QueryTile& tile) {
    state.begin(p, tile);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!tile.exists(p, i)) continue;
      const SearchRow& row = p.search[tile.partial_row(p, QueryTile::row_of(i))];
      low[i] = row.low;
      first[i] = row.first - p.first_key;
    }
  }
  __device__ void end(const PortableParams& p, const QueryTile& tile) const { state.end(p, tile); }
  __device__ void weigh(float (&x)[4][4], std::int64_t first_key, float (&rescale)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const std::int32_t ordered = ordered_bits(x[i][j]);
        const std::int64_t key = first_key + QueryTile::tx() + 16 * j;
        if (!(ordered > low[i] || (ordered == low[i] && key >= first[i]))) x[i][j] = -INFINITY;
      }
    }
    state.weigh(x, rescale);
  }
};

}  // namespace ringscan::cuda::portable
