#pragma once
// What softmax (and cog) and stick-breaking each do along an AttendWalk. A key block's sums start at zero and are then
// added to the query tile's: with the sums over a key tile in registers, that makes three levels of summation, which
// keeps a million keys precise.

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/lane_blocks.hpp"
#include "kernels/cpu/query_tiles.hpp"
#include "kernels/cpu/scratch.hpp"

namespace ringscan::cpu {

/// `kTile` is the operation that adds a key tile.
template <auto kTile>
class LseRows {
 public:
  using Tiles = TileInterval;

  LseRows(LseBlock& block, Scratch& scratch)
      : block_(block),
        shape_(block.shape),
        local_{scratch.out, scratch.lane_values, scratch.lane_values + kQueryTile} {}

  const LaneShape& shape() const { return shape_; }
  Tiles open(const QueryTiling& tiling, std::int64_t, std::int64_t) { return TileInterval(tiling); }

  void start(std::int64_t index) {
    rows_ = lanes_at(block_, shape_, index);
    std::copy_n(rows_.max, kQueryTile, local_.max);
    std::fill_n(local_.sum, kQueryTile, 0.0f);
  }
  bool add(const TileOps& ops, const TileTask& tile_task, std::int64_t) {
    (ops.*kTile)(tile_task, local_);
    return false;
  }
  void finish(const TileOps& ops) { ops.join_lse(rows_, local_, shape_.out_rows); }

 private:
  LseBlock& block_;
  LaneShape shape_;
  LseLanes local_;
  LseLanes rows_{};
};

using SoftmaxRows = LseRows<&TileOps::softmax_tile>;
using CogRows = LseRows<&TileOps::cog_tile>;

class StickRows {
 public:
  using Tiles = OpenTiles;

  StickRows(StickBlock& block, Scratch& scratch, const StickBreakingParams& params)
      : block_(block),
        shape_(block.shape),
        local_{scratch.out, scratch.lane_values, scratch.lane_values + kQueryTile},
        log2_epsilon_(params.epsilon > 0.0 ? static_cast<float>(std::log2(params.epsilon))
                                           : -std::numeric_limits<float>::infinity()) {}

  const LaneShape& shape() const { return shape_; }
  Tiles open(const QueryTiling& tiling, std::int64_t batch, std::int64_t slot) {
    const auto tiles = static_cast<std::size_t>(shape_.num_tiles);
    auto* flags = block_.done.as<std::uint8_t>() + shape_.index(batch, slot, 0);
    auto* lists = reinterpret_cast<std::int32_t*>(block_.done.as<std::uint8_t>() + shape_.flag_bytes());
    return OpenTiles(tiling, {flags, tiles}, {lists + slot * shape_.num_tiles, tiles});
  }

  void start(std::int64_t index) {
    rows_ = lanes_at(block_, shape_, index);
    std::fill_n(local_.log2_stick, 2 * kQueryTile, 0.0f);
  }
  bool add(const TileOps& ops, const TileTask& tile_task, std::int64_t num_queries) {
    ops.stick_tile(tile_task, local_);
    bool done = true;
    for (std::int64_t lane = 0; lane < num_queries; ++lane) {
      done &= rows_.log2_stick[lane] + local_.log2_stick[lane] < log2_epsilon_;
    }
    return done;
  }
  void finish(const TileOps& ops) { ops.join_stick(rows_, local_, shape_.out_rows); }

 private:
  StickBlock& block_;
  LaneShape shape_;
  StickLanes local_;
  StickLanes rows_{};
  float log2_epsilon_;
};

}  // namespace ringscan::cpu
