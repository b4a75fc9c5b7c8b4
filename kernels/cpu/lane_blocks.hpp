#pragma once
// How LseBlock and StickBlock are arranged here: query tiles of 64 lanes, [batch][slot][query tile].

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/tile_ops.hpp"
#include "kernels/kernels.hpp"

namespace ringscan::cpu {

inline constexpr auto kQueryTileTokens = static_cast<std::int64_t>(kQueryTile);

/// Where the accumulators of a query tile lie.
struct LaneShape {
  explicit LaneShape(const PartialShape& shape)
      : num_tiles(ceil_div(shape.rows, kQueryTileTokens)),
        num_slots(shape.slots),
        total_tiles(shape.batch * shape.slots * num_tiles),
        out_rows(round_up(static_cast<std::size_t>(shape.v_dim), kRowStep)) {}

  std::int64_t index(std::int64_t batch, std::int64_t slot, std::int64_t tile) const {
    return (batch * num_slots + slot) * num_tiles + tile;
  }
  std::size_t out_floats() const { return out_rows * kQueryTile; }
  std::size_t out_bytes() const { return static_cast<std::size_t>(total_tiles) * out_floats() * sizeof(float); }
  /// One float a lane.
  std::size_t lane_bytes() const { return static_cast<std::size_t>(total_tiles) * kQueryTile * sizeof(float); }
  /// One flag a tile, then one list of open tiles for each slot.
  std::size_t flag_bytes() const { return round_up(static_cast<std::size_t>(total_tiles), alignof(std::int32_t)); }
  std::size_t open_bytes() const { return static_cast<std::size_t>(num_slots * num_tiles) * sizeof(std::int32_t); }

  std::int64_t num_tiles;
  std::int64_t num_slots;
  std::int64_t total_tiles;
  std::size_t out_rows;
};

inline float* at_tile(const Buffer& buffer, std::int64_t index, std::size_t floats) {
  // A block's owner decides whether it may be written; the views below serve both.
  auto* data = const_cast<float*>(buffer.as<float>());
  return data + static_cast<std::size_t>(index) * floats;
}

inline LseLanes lanes_at(const LseBlock& block, const LaneShape& shape, std::int64_t index) {
  return {at_tile(block.out, index, shape.out_floats()), at_tile(block.max, index, kQueryTile),
          at_tile(block.sum, index, kQueryTile)};
}

inline StickLanes lanes_at(const StickBlock& block, const LaneShape& shape, std::int64_t index) {
  float* log2_stick = at_tile(block.log2_stick, index, 2 * kQueryTile);
  return {at_tile(block.out, index, shape.out_floats()), log2_stick, log2_stick + kQueryTile};
}

inline SearchRows& search_rows_at(const TopkBlock& block, std::int64_t index) {
  return const_cast<SearchRows*>(block.rows.as<SearchRows>())[index];
}
inline std::uint32_t* bins_at(TopkBlock& block, std::int64_t index) {
  return block.bins.as<std::uint32_t>() + static_cast<std::size_t>(index) * kSearchBins * kQueryTile;
}
inline std::size_t search_row_bytes(const LaneShape& shape) {
  return static_cast<std::size_t>(shape.total_tiles) * sizeof(SearchRows);
}
inline std::size_t bin_bytes(const LaneShape& shape) {
  return static_cast<std::size_t>(shape.total_tiles) * kSearchBins * kQueryTile * sizeof(std::uint32_t);
}

inline std::size_t block_bytes_of(const LaneShape& shape, const SoftmaxParams&) {
  return shape.out_bytes() + 2 * shape.lane_bytes();
}
inline std::size_t block_bytes_of(const LaneShape& shape, const CogParams&) {
  return shape.out_bytes() + 2 * shape.lane_bytes();
}
/// The weights of all keys, and the kept keys' accumulators; top-k: the bins are given back before these are taken.
inline std::size_t block_bytes_of(const LaneShape& shape, const SparseParams& params) {
  const std::size_t kept = shape.out_bytes() + 2 * shape.lane_bytes();
  const std::size_t all = 2 * shape.lane_bytes();
  if (params.select == SparseSelect::kWindow) return kept + all;
  return search_row_bytes(shape) + shape.flag_bytes() + shape.open_bytes() + all + std::max(kept, bin_bytes(shape));
}
/// A state is carried instead: LinearKernels.
inline std::size_t block_bytes_of(const LaneShape&, const LinearParams&) {
  return 0;
}
inline std::size_t block_bytes_of(const LaneShape& shape, const StickBreakingParams&) {
  return shape.out_bytes() + 2 * shape.lane_bytes() + shape.flag_bytes() + shape.open_bytes();
}

}  // namespace ringscan::cpu
