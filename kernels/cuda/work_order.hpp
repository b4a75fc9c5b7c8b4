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

/// Of `num_streams` pairs of batch and slot, `streams_a_section` at a time. @pre neither is 0, nor num_slots nor
/// num_query_tiles, which are set.
inline void set_sections(AttendParams& p, std::uint32_t num_streams, std::uint32_t streams_a_section) {
  p.items_a_section = Divisor(streams_a_section * p.num_query_tiles);
  p.streams_a_section = Divisor(streams_a_section);
  p.streams_in_last = Divisor((num_streams - 1) % streams_a_section + 1);
  p.slots = Divisor(static_cast<std::uint32_t>(p.num_slots));
}

/// Items are numbered section by section (streams whose keys share the L2 cache), in each the last queries first: under
/// a causal band those are the longest, and the short ones fill the gaps at the end.
RINGSCAN_HOST_DEVICE inline QueryTile query_tile_of(const AttendParams& p, std::uint32_t item, int rows_a_tile) {
  const std::uint32_t section = p.items_a_section.quotient(item);
  const std::uint32_t within = item - section * p.items_a_section.divisor();
  const bool is_last = p.num_items - section * p.items_a_section.divisor() <= p.items_a_section.divisor();
  const Divisor& streams = is_last ? p.streams_in_last : p.streams_a_section;
  const std::uint32_t row = streams.quotient(within);
  const std::uint32_t stream = section * p.streams_a_section.divisor() + within - row * streams.divisor();
  const std::uint32_t batch = p.slots.quotient(stream);
  QueryTile tile;
  tile.row = static_cast<std::int64_t>(p.num_query_tiles - 1 - row) * rows_a_tile;
  tile.batch = static_cast<int>(batch);
  tile.slot = static_cast<int>(stream - batch * p.slots.divisor());
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
