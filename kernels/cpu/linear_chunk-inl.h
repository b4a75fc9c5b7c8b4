// Linear attention with decay over one chunk of tokens.
#if defined(RINGSCAN_LINEAR_CHUNK_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGSCAN_LINEAR_CHUNK_INL_H
#undef RINGSCAN_LINEAR_CHUNK_INL_H
#else
#define RINGSCAN_LINEAR_CHUNK_INL_H
#endif

#include <algorithm>
#include <cstring>

#include "kernels/cpu/linear_ops.hpp"
#include "kernels/cpu/pack-inl.h"
#include "kernels/cpu/tile_product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringscan::cpu::HWY_NAMESPACE {

/// elu(x) + 1: x + 1 above 0, else e^x. The columns that only fill a row up stay 0.
HWY_INLINE void MapElu1(float* rows, std::size_t num_rows, std::size_t dim) {
  const FloatTag d;
  const Floats zero = hn::Zero(d);
  const Floats one = hn::Set(d, 1.0f);
  const Floats log2_e = hn::Set(d, 1.44269504f);
  const std::size_t row_floats = round_up(dim, kMaxVector);
  for (std::size_t r = 0; r < num_rows; ++r) {
    float* row = rows + r * row_floats;
    for (std::size_t i = 0; i < dim; i += kLanes) {
      const Floats x = hn::Load(d, row + i);
      const Floats below = Exp2(hn::Mul(AtMost(zero, x), log2_e));
      hn::Store(hn::IfThenElse(hn::Gt(x, zero), hn::Add(x, one), below), d, row + i);
    }
    std::memset(row + dim, 0, (row_floats - dim) * sizeof(float));
  }
}

/// decays: 2^c_i from before the chunk to token i; 2^(c_last - c_j) from token j to the chunk's end.
HWY_INLINE void ChunkDecays(const LinearChunk& chunk, float* decays) {
  const FloatTag d;
  const Floats last_high = hn::Set(d, chunk.log2_decay_high[kChunk - 1]);
  const Floats last_low = hn::Set(d, chunk.log2_decay_low[kChunk - 1]);
  for (std::size_t i = 0; i < kChunk; i += kLanes) {
    const Floats high = hn::Load(d, chunk.log2_decay_high + i);
    const Floats low = hn::Load(d, chunk.log2_decay_low + i);
    hn::Store(Exp2(hn::Add(high, low)), d, decays + i);
    hn::Store(Exp2(hn::Add(hn::Sub(last_high, high), hn::Sub(last_low, low))), d, decays + kChunk + i);
  }
}

/// Values as lane rows, as they are and decayed to the chunk's end; where the state has n, with its column of ones.
inline HWY_NOINLINE void PackLinearValues(const LinearChunk& chunk, const LinearWidths& widths,
                                          const LinearScratch& scratch) {
  const FloatTag d;
  const auto stride_bytes = chunk.v.stride * static_cast<std::int64_t>(size_of(chunk.v.type));
  float* row = scratch.rows;
  std::memset(row + widths.v_dim, 0, (widths.lane_width - widths.v_dim) * sizeof(float));
  if (widths.has_normalizer) row[widths.v_dim] = 1.0f;
  for (std::size_t j = 0; j < chunk.v.count; ++j) {
    LoadRow(chunk.v.data + static_cast<std::int64_t>(j) * stride_bytes, chunk.v.type, widths.v_dim, row);
    const Floats decay = hn::Set(d, scratch.decays[kChunk + j]);
    for (std::size_t lane = 0; lane < widths.lane_width; lane += kLanes) {
      const std::size_t to = (lane / kLaneGroup) * kChunk * kLaneGroup + j * kLaneGroup + lane % kLaneGroup;
      const Floats x = hn::Load(d, row + lane);
      hn::Store(x, d, scratch.values + to);
      hn::Store(hn::Mul(x, decay), d, scratch.decayed + to);
    }
  }
}

/// weights = scores * 2^(c_i - c_j) over j <= i, else 0; for kPanel rows i from `row` on and keys j up to the last of
/// them. The scores [kPanel][kChunk] come through memory: in registers, they would crowd out the exponentials.
HWY_INLINE void WeighScores(const LinearChunk& chunk, const float* scores, std::size_t row, float* weights) {
  const FloatTag d;
  Floats row_high[kPanel], row_low[kPanel], row_index[kPanel];
#pragma GCC unroll 4
  for (std::size_t r = 0; r < kPanel; ++r) {
    row_high[r] = hn::Set(d, chunk.log2_decay_high[row + r]);
    row_low[r] = hn::Set(d, chunk.log2_decay_low[row + r]);
    row_index[r] = hn::Set(d, static_cast<float>(row + r));
  }
  for (std::size_t key = 0; key < row + kPanel; key += kLanes) {
    const Floats key_high = hn::Load(d, chunk.log2_decay_high + key);
    const Floats key_low = hn::Load(d, chunk.log2_decay_low + key);
    const Floats key_index = hn::Iota(d, static_cast<float>(key));
    Floats weight[kPanel];
#pragma GCC unroll 4
    for (std::size_t r = 0; r < kPanel; ++r) {
      const Floats since = hn::Add(hn::Sub(row_high[r], key_high), hn::Sub(row_low[r], key_low));
      const Floats decayed = hn::Mul(hn::Load(d, scores + r * kChunk + key), Exp2(since));
      weight[r] = hn::IfThenElseZero(hn::Le(key_index, row_index[r]), decayed);
    }
    StoreFour(weight[0], weight[1], weight[2], weight[3], weights + row * kKeyTile + key * kPanel);
  }
}

HWY_INLINE void StoreTile(const Accumulators& sums, float* to, std::size_t stride) {
  const FloatTag d;
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 4
    for (std::size_t c = 0; c < kTileVectors; ++c) hn::Store(sums[r][c], d, to + r * stride + c * kLanes);
  }
}

/// (Q K^T * 2^(c_i - c_j), lower triangle) V + 2^(c_i) Q S. Tiles above the diagonal are not computed.
inline HWY_NOINLINE void ChunkOutput(const LinearChunk& chunk, const LinearWidths& widths, const LinearScratch& scratch,
                                     const StateLanes& state) {
  const FloatTag d;
  const std::size_t depth = widths.head_dim;
  HWY_ALIGN float scores[kTileRows * kChunk];
  for (std::size_t row = 0; row < chunk.q.count; row += kTileRows) {
    const float* queries = scratch.queries + row * depth;
    for (std::size_t lane = 0; lane < row + kTileRows; lane += kTileLanes) {
      Accumulators sums;
      const float* keys = scratch.key_lanes + (lane / kLaneGroup) * depth * kLaneGroup + lane % kLaneGroup;
      Multiply(queries, depth, keys, depth, sums);
      StoreTile(sums, scores + lane, kChunk);
    }
    for (std::size_t r = 0; r < kTileRows; r += kPanel) {
      WeighScores(chunk, scores + r * kChunk, row + r, scratch.weights);
    }
    const std::size_t num_keys = std::min(chunk.k.count, row + kTileRows);
    for (std::size_t lane = 0; lane < widths.lane_width; lane += kTileLanes) {
      const std::size_t group = lane / kLaneGroup;
      Accumulators sums;
      Multiply(queries, depth, state.high + group * widths.state_rows * kLaneGroup + lane % kLaneGroup, depth, sums);
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kTileRows; ++r) {
        const Floats decay = hn::Set(d, scratch.decays[row + r]);
#pragma GCC unroll 4
        for (std::size_t c = 0; c < kTileVectors; ++c) sums[r][c] = hn::Mul(sums[r][c], decay);
      }
      MultiplyAdd(scratch.weights + row * kKeyTile, kKeyTile,
                  scratch.values + group * kChunk * kLaneGroup + lane % kLaneGroup, num_keys, sums);
      StoreTile(sums, scratch.out + row * widths.lane_width + lane, widths.lane_width);
    }
  }
}

HWY_INLINE void StoreChunk(const LinearChunk& chunk, const LinearWidths& widths, float* out) {
  const FloatTag d;
  const auto stride_bytes = chunk.o_stride * static_cast<std::int64_t>(size_of(chunk.o_type));
  for (std::size_t i = 0; i < chunk.q.count; ++i) {
    float* row = out + i * widths.lane_width;
    if (widths.has_normalizer) {
      const Floats by = hn::Set(d, row[widths.v_dim] + 1e-10f);
      for (std::size_t lane = 0; lane < widths.lane_width; lane += kLanes) {
        hn::Store(hn::Div(hn::Load(d, row + lane), by), d, row + lane);
      }
    }
    StoreRow(row, chunk.o_type, chunk.o + static_cast<std::int64_t>(i) * stride_bytes, widths.v_dim);
  }
}

/// StateElement::decay_and_add, with nothing in `added.low`.
HWY_INLINE void DecayAndAddState(const SplitFactor& decay, Floats added, float* high, float* low) {
  const FloatTag d;
  const Floats factor_high = hn::Set(d, decay.high);
  const Floats before = hn::Load(d, high);
  const Floats product = hn::Mul(factor_high, before);
  const Floats product_error = hn::MulSub(factor_high, before, product);
  const Floats sum = hn::Add(product, added);
  const Floats back = hn::Sub(sum, product);
  const Floats sum_error = hn::Add(hn::Sub(product, hn::Sub(sum, back)), hn::Sub(added, back));
  const Floats small = hn::MulAdd(hn::Set(d, decay.low), before, hn::Add(product_error, sum_error));
  const Floats rest = hn::MulAdd(factor_high, hn::Load(d, low), small);
  const Floats after = hn::Add(sum, rest);
  hn::Store(after, d, high);
  hn::Store(hn::Sub(rest, hn::Sub(after, sum)), d, low);
}

/// S = decay S + K^T V, each value decayed to the chunk's end.
inline HWY_NOINLINE void UpdateState(const LinearChunk& chunk, const LinearWidths& widths, const LinearScratch& scratch,
                                     const StateLanes& state) {
  for (std::size_t group = 0; group < widths.lane_groups(); ++group) {
    const float* values = scratch.decayed + group * kChunk * kLaneGroup;
    const auto store = [&](std::size_t row, std::size_t lane, const Accumulators& sums) HWY_ATTR {
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kTileRows; ++r) {
        const std::size_t at = (group * widths.state_rows + row + r) * kLaneGroup + lane;
#pragma GCC unroll 4
        for (std::size_t c = 0; c < kTileVectors; ++c) {
          DecayAndAddState(chunk.decay, sums[r][c], state.high + at + c * kLanes, state.low + at + c * kLanes);
        }
      }
    };
    Product(scratch.key_columns, kKeyTile, widths.state_rows, values, chunk.k.count, store);
  }
}

inline void AdvanceChunk(const LinearChunk& chunk, const LinearWidths& widths, const LinearScratch& scratch,
                         const StateLanes& state) {
  const std::size_t dim = widths.head_dim;
  ChunkDecays(chunk, scratch.decays);
  LoadRows(chunk.k, kChunk, scratch.rows);
  if (chunk.elu1) MapElu1(scratch.rows, chunk.k.count, dim);
  RowsToColumnPanels(scratch.rows, chunk.k.count, dim, scratch.key_columns);
  if (chunk.o != nullptr) {
    InterleaveRows(scratch.rows, kChunk, dim, 1.0f, scratch.panels);
    PanelsToLanes(scratch.panels, dim, scratch.key_lanes);
    LoadRows(chunk.q, kChunk, scratch.rows);
    if (chunk.elu1) MapElu1(scratch.rows, chunk.q.count, dim);
    InterleaveRows(scratch.rows, kChunk, dim, chunk.scale, scratch.queries);
  }
  PackLinearValues(chunk, widths, scratch);
  if (chunk.o != nullptr) {
    ChunkOutput(chunk, widths, scratch, state);
    StoreChunk(chunk, widths, scratch.out);
  }
  UpdateState(chunk, widths, scratch, state);
}

}  // namespace ringscan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
