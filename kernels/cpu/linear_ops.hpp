#pragma once
// One chunk of linear attention with decay, compiled once for each instruction set.
//
// Tokens of the chunk are rows i, j; lanes are columns of v (for scores: keys). With panels and lane rows as in
// tile_ops.hpp, the state S is kept as lane rows [v / 32][head_dim][32], so that Q S reads it and K^T V updates it in
// place. n, where there is one, is S's column for a value that is always 1.

#include <cstddef>
#include <cstdint>

#include "core/buffer.hpp"
#include "kernels/cpu/tile_ops.hpp"
#include "mechanism/affine_state.hpp"

namespace ringscan::cpu {

inline constexpr std::size_t kChunk = kQueryTile;  ///< tokens
static_assert(kChunk == kKeyTile);

/// The state of one head: fp32 numbers and what rounding took from them.
struct StateLanes {
  float* high;  ///< [lane groups][state rows][kLaneGroup]
  float* low;   ///< likewise
};

struct LinearWidths {
  LinearWidths(std::int64_t k_dim, std::int64_t v_width, bool with_normalizer)
      : head_dim(static_cast<std::size_t>(k_dim)),
        v_dim(static_cast<std::size_t>(v_width)),
        has_normalizer(with_normalizer),
        state_rows(round_up(head_dim, kRowStep)),
        lane_width(round_up(v_dim + (with_normalizer ? 1 : 0), kLaneGroup)) {}

  std::size_t lane_groups() const { return lane_width / kLaneGroup; }
  std::size_t state_floats() const { return lane_width * state_rows; }

  std::size_t head_dim;
  std::size_t v_dim;
  bool has_normalizer;
  std::size_t state_rows;
  std::size_t lane_width;  ///< v_dim and the column of n, filled up to lane groups
};

/// What a chunk is worked on in.
class LinearScratch {
 public:
  explicit LinearScratch(const LinearWidths& widths);
  static std::size_t bytes(const LinearWidths& widths);

  float* rows;         ///< the chunk's rows as float32
  float* panels;       ///< keys on their way into lanes
  float* queries;      ///< panels (row: query, depth: head_dim), premultiplied by the scale
  float* key_lanes;    ///< lane rows (row: head_dim, lane: key)
  float* key_columns;  ///< panels (row: head_dim, depth: key)
  float* values;       ///< [lane groups][kChunk][kLaneGroup]
  float* decayed;      ///< values, times the decay from their token to the chunk's end
  float* weights;      ///< panels (row: query, depth: key)
  float* out;          ///< [kChunk][lane_width]
  float* decays;       ///< [2][kChunk]: since before the chunk; to its end

 private:
  Buffer buffer_;
};

struct LinearChunk {
  RowSource q;
  RowSource k;
  RowSource v;
  float scale = 1.0f;
  bool elu1 = false;
  /// log2 of the decay from before the chunk to each token, itself included, in two floats, since it is differences of
  /// these that count; [kChunk], the last token's value repeated.
  const float* log2_decay_high = nullptr;
  const float* log2_decay_low = nullptr;
  SplitFactor decay;  ///< of the whole chunk
  std::byte* o = nullptr;
  ElementType o_type = ElementType::kFloat32;
  std::int64_t o_stride = 0;  ///< elements from row to row
};

struct LinearOps {
  /// The state goes over the chunk; where chunk.o is set, its rows are written.
  void (*advance)(const LinearChunk& chunk, const LinearWidths& widths, const LinearScratch& scratch,
                  const StateLanes& state);
};

/// Those of the best instruction set that this machine has.
const LinearOps& linear_ops();

}  // namespace ringscan::cpu
