#pragma once
// The order in which an attend() meets its keys: for each batch and KV head, key blocks on the global grid, near first;
// each block is packed once for all query heads and query tiles that need it; within it, key tiles near first.

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/query_tiles.hpp"
#include "kernels/cpu/scratch.hpp"

namespace ringscan::cpu {

/// The slots that read one KV head.
struct KvGroup {
  int kv_head = 0;
  std::vector<std::int64_t> slots;
};

std::vector<KvGroup> group_by_kv_head(std::span<const HeadSlot> slots);

inline RowSource rows_of(const AnyView& view, std::int64_t batch, std::int64_t token, std::int64_t head,
                         std::int64_t count) {
  return {view.row(batch, token, head), view.type, view.strides[1], static_cast<std::size_t>(count),
          static_cast<std::size_t>(view.shape[3])};
}

/// A key block cut into tiles, packed as they are needed.
class PackedKeyBlock {
 public:
  PackedKeyBlock(const TileOps& ops, const AttendTask& task, Scratch& scratch)
      : ops_(ops), task_(task), scratch_(scratch), packed_(scratch.tiles_in_block) {}

  /// Moves to the keys of the task that lie in a cell of the global grid.
  void start(std::int64_t batch, int kv_head, std::int64_t cell_begin);
  const TokenRun& keys() const { return keys_; }

  /// Tiles [first, last] hold the visible keys; none where last < first.
  std::int64_t tile_of(std::int64_t key) const { return (key - cell_begin_) / kKeyTileTokens; }
  TokenRun tile(std::int64_t index) const {
    const std::int64_t begin = cell_begin_ + index * kKeyTileTokens;
    return intersect(TokenRun{begin, begin + kKeyTileTokens}, keys_);
  }
  /// Points the task at the tile's panels, packing them first where that has not been done.
  void load(std::int64_t index, TileTask& tile_task);

 private:
  static constexpr auto kKeyTileTokens = static_cast<std::int64_t>(kKeyTile);

  const TileOps& ops_;
  const AttendTask& task_;
  Scratch& scratch_;
  std::vector<bool> packed_;
  std::int64_t batch_ = 0;
  int kv_head_ = 0;
  std::int64_t cell_begin_ = 0;
  TokenRun keys_;
};

/// Number of key tiles that hold keys of `keys` (a run within the task's): tiles are cut from key blocks.
std::int64_t count_key_tiles(const TokenRun& keys, std::int64_t key_block);

/// Walks a task. `Rows` says what a mechanism does where:
///   Tiles open(tiling, batch, slot)       the query tiles to visit: a TileInterval or OpenTiles
///   void start(index)                     query tile `index` (of LaneShape) meets a key block: local accumulators
///   bool add(ops, tile_task, num_queries) a key tile; true: nothing further can change the query tile
///   void finish(ops)                      joins the local accumulators to the query tile's
template <typename Rows>
class AttendWalk {
 public:
  AttendWalk(const TileOps& ops, const AttendTask& task, Scratch& scratch, Rows& rows, Heartbeat& heartbeat)
      : ops_(ops),
        task_(task),
        tiling_{task.query_run, task.band, task.max_deltas},
        scratch_(scratch),
        rows_(rows),
        heartbeat_(heartbeat),
        block_(ops, task, scratch) {}

  AttendStats run() {
    if (task_.query_run.empty() || task_.key_run.empty() || task_.band.min_delta > task_.band.max_delta) return stats_;
    const std::vector<KvGroup> groups = group_by_kv_head(task_.slots);
    for (std::int64_t batch = 0; batch < task_.q.shape[0]; ++batch) {
      for (const KvGroup& group : groups) walk_group(batch, group);
    }
    return stats_;
  }

 private:
  void walk_group(std::int64_t batch, const KvGroup& group) {
    std::vector<typename Rows::Tiles> tiles;
    for (const std::int64_t slot : group.slots) tiles.push_back(rows_.open(tiling_, batch, slot));
    const std::int64_t first_cell = task_.key_run.begin / task_.key_block;
    for (std::int64_t cell = (task_.key_run.end - 1) / task_.key_block; cell >= first_cell; --cell) {
      block_.start(batch, group.kv_head, cell * task_.key_block);
      for (std::size_t i = 0; i < tiles.size(); ++i) {
        const std::int64_t slot = group.slots[i];
        tiles[i].advance(block_.keys(), [&](std::int64_t tile) { count_skipped(tile, task_.key_run.end); });
        tiles[i].visit([&](std::int64_t tile) { return meet(batch, slot, tile); });
      }
    }
  }

  /// A query tile meets the key block. True where the tile is done.
  bool meet(std::int64_t batch, std::int64_t slot, std::int64_t tile) {
    const TokenRun queries = tiling_.tile(tile);
    const TokenRun visible = intersect(tiling_.visible_keys(tile), block_.keys());
    if (visible.empty()) return false;
    const int q_head = task_.slots[static_cast<std::size_t>(slot)].q_head;
    const RowSource source = rows_of(task_.q, batch, queries.begin - task_.query_run.begin, q_head, queries.size());
    constexpr float kLog2e = 1.44269504f;
    ops_.pack_queries(source, task_.scale * kLog2e, scratch_.rows, scratch_.panels, scratch_.queries);

    const std::int64_t index = rows_.shape().index(batch, slot, tile);
    rows_.start(index);
    bool done = false;
    bool first = true;
    const std::int64_t last_tile = block_.tile_of(visible.begin);
    for (std::int64_t key_tile = block_.tile_of(visible.end - 1); key_tile >= last_tile && !done; --key_tile) {
      const TileTask tile_task = make_tile_task(queries, key_tile, first);
      done = rows_.add(ops_, tile_task, queries.size());
      if (done) count_skipped(tile, block_.tile(key_tile).begin);
      first = false;
    }
    rows_.finish(ops_);
    heartbeat_.beat();
    return done;
  }

  TileTask make_tile_task(const TokenRun& queries, std::int64_t key_tile, bool first) {
    const TokenRun keys = block_.tile(key_tile);
    TileTask tile_task;
    tile_task.queries = scratch_.queries;
    tile_task.scores = scratch_.scores;
    tile_task.head_dim = static_cast<std::size_t>(task_.q.shape[3]);
    tile_task.out_rows = rows_.shape().out_rows;
    tile_task.num_keys = static_cast<std::size_t>(keys.size());
    tile_task.masked = !tiling_.sees_all(queries, keys);
    // Beyond these bounds the numbers decide nothing, and within them they are exact in float32.
    const auto to_lane = [&](std::int64_t delta) {
      return static_cast<int>(std::clamp<std::int64_t>(delta - (queries.begin - keys.begin), -4096, 4096));
    };
    tile_task.first_lane = to_lane(task_.band.min_delta);
    tile_task.last_lane = to_lane(task_.band.max_delta);
    if (tile_task.masked && !task_.max_deltas.empty()) tile_task.first_keys = first_keys(queries, keys);
    tile_task.first_position = keys.begin;
    tile_task.first = first;
    block_.load(key_tile, tile_task);
    stats_.tiles_computed += 1;
    stats_.pairs += tile_task.masked ? tiling_.pairs(queries, keys) : queries.size() * keys.size();
    return tile_task;
  }

  /// Each query's first key in the tile.
  const float* first_keys(const TokenRun& queries, const TokenRun& keys) {
    for (std::int64_t lane = 0; lane < queries.size(); ++lane) {
      const std::int64_t first = tiling_.first_key(queries.begin + lane) - keys.begin;
      scratch_.first_keys[lane] = static_cast<float>(std::clamp<std::int64_t>(first, 0, kQueryTileTokens));
    }
    std::fill(scratch_.first_keys + queries.size(), scratch_.first_keys + kQueryTileTokens, 0.0f);
    return scratch_.first_keys;
  }

  /// The query tile will not look at its keys before `keys_end`.
  void count_skipped(std::int64_t tile, std::int64_t keys_end) {
    const TokenRun keys =
        intersect(tiling_.visible_keys(tile), TokenRun{task_.key_run.begin, std::max(keys_end, task_.key_run.begin)});
    stats_.tiles_skipped += count_key_tiles(keys, task_.key_block);
  }

  const TileOps& ops_;
  const AttendTask& task_;
  QueryTiling tiling_;
  Scratch& scratch_;
  Rows& rows_;
  Heartbeat& heartbeat_;
  PackedKeyBlock block_;
  AttendStats stats_;
};

}  // namespace ringscan::cpu
