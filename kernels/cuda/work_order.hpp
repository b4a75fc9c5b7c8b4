#pragma once
// The order in which the attend kernels take query tiles, and the keys of each: for the kernels and for the host that
// plans their launch.

#include <cstdint>

#include "kernels/cuda/attend_params_sm90.hpp"

namespace ringscan::cuda {

/// A query tile of one head.
struct QueryTile {
  std::int64_t row;  ///< first query, local to its run
  int batch;
  int slot;
};

/// Tiles of keys, local to their run; `first` is the far end.
struct KeyTiles {
  std::int32_t first;
  std::int32_t count;
};

/// Items are numbered section by section (streams whose keys share the L2 cache), in each the last queries first: under
/// a causal band those are the longest, and the short ones fill the gaps at the end.
RINGSCAN_HOST_DEVICE inline QueryTile query_tile_of(const AttendParams& p, std::uint32_t item, int rows_a_tile) {
  const std::uint32_t section = item / (p.streams_a_section * p.num_query_tiles);
  const std::uint32_t within = item - section * p.streams_a_section * p.num_query_tiles;
  const std::uint32_t streams_left = p.num_items / p.num_query_tiles - section * p.streams_a_section;
  const std::uint32_t streams = streams_left < p.streams_a_section ? streams_left : p.streams_a_section;
  const std::uint32_t stream = section * p.streams_a_section + within % streams;
  QueryTile tile;
  tile.row = static_cast<std::int64_t>(p.num_query_tiles - 1 - within / streams) * rows_a_tile;
  tile.batch = static_cast<int>(stream / static_cast<std::uint32_t>(p.num_slots));
  tile.slot = static_cast<int>(stream % static_cast<std::uint32_t>(p.num_slots));
  return tile;
}

/// What the tile's rows see, none of which reaches farther back than `reach` before the first.
RINGSCAN_HOST_DEVICE inline KeyTiles key_tiles_of(const AttendParams& p, std::int64_t row, std::int64_t reach,
                                                  int rows_a_tile, int keys_a_tile) {
  const std::int64_t rows_end = row + rows_a_tile < p.num_queries ? row + rows_a_tile : p.num_queries;
  const std::int64_t farthest = row + p.query_minus_key - reach;
  const std::int64_t nearest = rows_end + p.query_minus_key - p.min_delta;
  const std::int64_t begin = farthest > 0 ? farthest : 0;
  const std::int64_t end = nearest < p.num_keys ? nearest : p.num_keys;
  const auto first = static_cast<std::int32_t>(begin / keys_a_tile);
  return {first, end > begin ? static_cast<std::int32_t>((end - 1) / keys_a_tile) + 1 - first : 0};
}

}  // namespace ringscan::cuda
