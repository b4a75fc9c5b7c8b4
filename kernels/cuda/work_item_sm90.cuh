#pragma once
// What a block of the attend kernels shares, and the order in which the work is taken.

#include "kernels/cuda/attend_params_sm90.hpp"
#include "kernels/cuda/pipeline_sm90.cuh"
#include "kernels/cuda/work_order.hpp"

namespace ringscan::cuda {

/// What a work item covers. Tokens are local to their runs.
struct alignas(16) WorkItem {
  std::int64_t row;  ///< first query
  int batch;
  int slot;
  std::int32_t first_tile;  ///< of keys; the far end
  std::int32_t num_tiles;
  std::int32_t part_row;  ///< where its rows begin among those of parts; negative: among the carried partials
  std::uint32_t task;     ///< its number; num_tasks(): there are no more
};

/// A word of shared memory for all lanes, read by the lane that releases the slot it stands in.
template <typename T>
__device__ std::uint32_t from_first_lane(const T& shared) {
  std::uint32_t value = 0;
  if (threadIdx.x % 32 == 0) value = shared;
  return __shfl_sync(0xFFFFFFFFu, value, 0);
}
/// Likewise a work item.
__device__ inline WorkItem item_of(const WorkItem& shared) {
  constexpr int kWords = sizeof(WorkItem) / sizeof(std::uint32_t);
  std::uint32_t words[kWords] = {};
  if (threadIdx.x % 32 == 0) memcpy(words, &shared, sizeof words);
  for (std::uint32_t& word : words) word = __reduce_or_sync(0xFFFFFFFFu, word);  // into uniform registers, which are free
  WorkItem item;
  memcpy(&item, words, sizeof item);
  return item;
}

template <typename Shape>
struct SharedTiles {
  alignas(1024) std::uint8_t q[Shape::kQueryBuffers][Shape::kQueryBytes];
  alignas(1024) std::uint8_t k[Shape::kStages][Shape::kKeyBytes];
  alignas(1024) std::uint8_t v[Shape::kStages][Shape::kKeyBytes];
  RingBarriers<Shape::kQueryBuffers> q_ring;
  RingBarriers<Shape::kStages> k_ring;
  RingBarriers<Shape::kStages> v_ring;
  WorkItem item[Shape::kQueryBuffers];          ///< whose queries these are, as the loading thread worked it out
  bool item_ends[Shape::kStages];               ///< in place of a K tile: no further tile of this item
  std::uint32_t weighed[Shape::kConsumers];     ///< tiles each warpgroup has weighed or passed over since the start
  std::uint32_t items_done[Shape::kConsumers];  ///< 1 + the last item that a warpgroup ended early, as counted here
};

/// The largest i - j that a query, local to its run, sees.
__device__ inline std::int64_t reach(const AttendParams& p, std::int64_t query) {
  return p.max_deltas == nullptr ? p.max_delta : min(p.max_delta, p.max_deltas[query]);
}

/// @pre task < p.num_tasks().
template <typename Shape>
__device__ WorkItem work_item(const AttendParams& p, std::uint32_t task) {
  std::uint32_t index = task;
  std::uint32_t part = 0;
  std::uint32_t cut_item = 0;
  if (index >= p.num_whole) {
    // All first parts, then all second ones: those worked on together read the same keys.
    const std::uint32_t num_cut = p.num_items - p.num_whole;
    part = (index - p.num_whole) / num_cut;
    cut_item = (index - p.num_whole) % num_cut;
    index = p.num_whole + cut_item;
  }
  const QueryTile queries = query_tile_of(p, index, Shape::kRows);
  // No row reaches farther back than the first.
  const KeyTiles keys = key_tiles_of(p, queries.row, reach(p, queries.row), Shape::kRows, Shape::kKeys);
  WorkItem item{queries.row, queries.batch, queries.slot, keys.first, keys.count, -1, task};
  if (index >= p.num_whole) {
    const auto parts = static_cast<std::int32_t>(p.num_parts);
    const auto beyond = parts - 1 - static_cast<std::int32_t>(part);
    const std::int32_t begin = keys.count * beyond / parts;
    item.first_tile += begin;
    item.num_tiles = keys.count * (beyond + 1) / parts - begin;
    if (part > 0) item.part_row = static_cast<std::int32_t>(cut_item * (p.num_parts - 1) + part - 1) * Shape::kRows;
  }
  return item;
}

/// First key that is loaded for a tile: the last tile is moved back so that it is whole.
template <typename Shape>
__device__ std::int64_t tile_start(const AttendParams& p, std::int32_t tile) {
  return min(static_cast<std::int64_t>(tile) * Shape::kKeys, p.loadable_keys - Shape::kKeys);
}

}  // namespace ringscan::cuda
