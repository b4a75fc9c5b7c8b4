#pragma once
// What a block of the attend kernels shares, and the order in which the work is taken.

#include "kernels/cuda/attend_params_sm90.hpp"
#include "kernels/cuda/pipeline_sm90.cuh"

namespace ringscan::cuda {

template <typename Shape>
struct SharedTiles {
  alignas(1024) std::uint8_t q[Shape::kQueryBuffers][Shape::kQueryBytes];
  alignas(1024) std::uint8_t k[Shape::kStages][Shape::kKeyBytes];
  alignas(1024) std::uint8_t v[Shape::kStages][Shape::kKeyBytes];
  RingBarriers<Shape::kQueryBuffers> q_ring;
  RingBarriers<Shape::kStages> k_ring;
  RingBarriers<Shape::kStages> v_ring;
  std::uint32_t item[Shape::kQueryBuffers];     ///< the work item whose queries these are; num_items: no more
  bool item_ends[Shape::kStages];               ///< in place of a K tile: no further tile of this item
  std::uint32_t weighed[Shape::kConsumers];     ///< tiles each warpgroup has weighed or passed over since the start
  std::uint32_t items_done[Shape::kConsumers];  ///< 1 + the last item that a warpgroup ended early, as counted here
};

/// What a work item covers. Tokens are local to their runs.
struct WorkItem {
  std::int64_t row;  ///< first query
  int batch;
  int slot;
  std::int32_t first_tile;  ///< of keys; the far end
  std::int32_t num_tiles;
};

/// Items are numbered section by section (streams whose keys share the L2 cache), in each the last queries first: under
/// a causal band those are the longest, and the short ones fill the gaps at the end.
/// The largest i - j that a query, local to its run, sees.
__device__ inline std::int64_t reach(const AttendParams& p, std::int64_t query) {
  return p.max_deltas == nullptr ? p.max_delta : min(p.max_delta, p.max_deltas[query]);
}

template <typename Shape>
__device__ WorkItem work_item(const AttendParams& p, std::uint32_t index) {
  const std::uint32_t section = index / (p.streams_a_section * p.num_query_tiles);
  const std::uint32_t within = index - section * p.streams_a_section * p.num_query_tiles;
  const std::uint32_t num_streams = p.num_items / p.num_query_tiles;
  const std::uint32_t streams = min(p.streams_a_section, num_streams - section * p.streams_a_section);
  const std::uint32_t stream = section * p.streams_a_section + within % streams;
  WorkItem item;
  item.row = static_cast<std::int64_t>(p.num_query_tiles - 1 - within / streams) * Shape::kRows;
  item.batch = static_cast<int>(stream / static_cast<std::uint32_t>(p.num_slots));
  item.slot = static_cast<int>(stream % static_cast<std::uint32_t>(p.num_slots));
  const std::int64_t last_row = min(item.row + Shape::kRows, p.num_queries) - 1;
  // No row reaches farther back than the first.
  const std::int64_t begin = max(std::int64_t{0}, item.row + p.query_minus_key - reach(p, item.row));
  const std::int64_t end = min(p.num_keys, last_row + p.query_minus_key - p.min_delta + 1);
  item.first_tile = static_cast<std::int32_t>(begin / Shape::kKeys);
  item.num_tiles = end > begin ? static_cast<std::int32_t>((end - 1) / Shape::kKeys) + 1 - item.first_tile : 0;
  return item;
}

/// First key that is loaded for a tile: the last tile is moved back so that it is whole.
template <typename Shape>
__device__ std::int64_t tile_start(const AttendParams& p, std::int32_t tile) {
  return min(static_cast<std::int64_t>(tile) * Shape::kKeys, p.loadable_keys - Shape::kKeys);
}

}  // namespace ringscan::cuda
