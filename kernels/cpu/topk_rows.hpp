#pragma once
// What the search for the k largest scores, and softmax over them, do along an AttendWalk.

#include <algorithm>
#include <vector>

#include "kernels/cpu/attend_rows.hpp"
#include "kernels/cpu/topk_search.hpp"

namespace ringscan::cpu {

/// Counts the query tiles that are not yet exact; in the first round, none is said to be, so that `all` gets each row.
class CountRows {
 public:
  using Tiles = OpenTiles;

  CountRows(TopkBlock& block, Scratch& scratch, LseBlock* all)
      : block_(block),
        all_(all),
        shape_(block.shape),
        local_{scratch.out, scratch.lane_values, scratch.lane_values + kQueryTile} {}

  const LaneShape& shape() const { return shape_; }
  Tiles open(const QueryTiling& tiling, std::int64_t batch, std::int64_t slot) {
    const auto tiles = static_cast<std::size_t>(shape_.num_tiles);
    auto* flags = block_.open.as<std::uint8_t>() + shape_.index(batch, slot, 0);
    auto* lists = reinterpret_cast<std::int32_t*>(block_.open.as<std::uint8_t>() + shape_.flag_bytes());
    return OpenTiles(tiling, {flags, tiles}, {lists + slot * shape_.num_tiles, tiles});
  }

  void start(std::int64_t index) {
    index_ = index;
    if (all_ == nullptr) return;
    std::copy_n(lanes_at(*all_, shape_, index).max, kQueryTile, local_.max);
    std::fill_n(local_.sum, kQueryTile, 0.0f);
  }
  bool add(const TileOps& ops, const TileTask& tile_task, std::int64_t) {
    ops.count_tile(tile_task, search_rows_at(block_, index_), bins_at(block_, index_),
                   all_ != nullptr ? &local_ : nullptr);
    return false;
  }
  void finish(const TileOps& ops) {
    if (all_ != nullptr) ops.join_lse(lanes_at(*all_, shape_, index_), local_, 0);
  }

 private:
  TopkBlock& block_;
  LseBlock* all_;
  LaneShape shape_;
  LseLanes local_;
  std::int64_t index_ = 0;
};

/// Softmax over the chosen keys.
class ChosenRows {
 public:
  using Tiles = TileInterval;

  ChosenRows(LseBlock& block, Scratch& scratch, const TopkBlock& chosen)
      : block_(block),
        chosen_(chosen),
        shape_(block.shape),
        local_{scratch.out, scratch.lane_values, scratch.lane_values + kQueryTile} {}

  const LaneShape& shape() const { return shape_; }
  Tiles open(const QueryTiling& tiling, std::int64_t, std::int64_t) { return TileInterval(tiling); }

  void start(std::int64_t index) {
    rows_ = lanes_at(block_, shape_, index);
    search_ = &search_rows_at(chosen_, index);
    std::copy_n(rows_.max, kQueryTile, local_.max);
    std::fill_n(local_.sum, kQueryTile, 0.0f);
  }
  bool add(const TileOps& ops, const TileTask& tile_task, std::int64_t) {
    for (std::size_t lane = 0; lane < kQueryTile; ++lane) {
      const std::int64_t cut = search_->first[lane] - tile_task.first_position;
      cuts_[lane] = static_cast<std::int32_t>(std::clamp<std::int64_t>(cut, 0, static_cast<std::int64_t>(kKeyTile)));
    }
    ops.chosen_tile(tile_task, search_->low, cuts_, local_);
    return false;
  }
  void finish(const TileOps& ops) { ops.join_lse(rows_, local_, shape_.out_rows); }

 private:
  LseBlock& block_;
  const TopkBlock& chosen_;
  LaneShape shape_;
  LseLanes local_;
  LseLanes rows_{};
  const SearchRows* search_ = nullptr;
  alignas(Buffer::kAlignment) std::int32_t cuts_[kQueryTile] = {};
};

/// Where to look first: the scores of a few keys.
class SampleRows {
 public:
  using Tiles = TileInterval;

  SampleRows(TopkBlock& block, Scratch&, const TokenRun& queries)
      : block_(block), shape_(block.shape), queries_(queries) {}

  const LaneShape& shape() const { return shape_; }
  Tiles open(const QueryTiling& tiling, std::int64_t, std::int64_t) { return TileInterval(tiling); }

  void start(std::int64_t index) {
    index_ = index;
    num_keys_ = 0;
    scores_.clear();
  }
  bool add(const TileOps& ops, const TileTask& tile_task, std::int64_t) {
    scores_.resize((num_keys_ + tile_task.num_keys) * kQueryTile);
    // Vectors are stored aligned, which a std::vector need not be.
    ops.order_scores(tile_task, tile_scores_);
    std::copy_n(tile_scores_, tile_task.num_keys * kQueryTile,
                scores_.begin() + static_cast<std::ptrdiff_t>(num_keys_ * kQueryTile));
    num_keys_ += tile_task.num_keys;
    return false;
  }
  void finish(const TileOps&) {
    const std::int64_t first = queries_.begin + index_ % shape_.num_tiles * kQueryTileTokens;
    guess_ranges(search_rows_at(block_, index_), first, scores_);
  }

 private:
  TopkBlock& block_;
  LaneShape shape_;
  TokenRun queries_;
  std::int64_t index_ = 0;
  std::size_t num_keys_ = 0;
  std::vector<std::int32_t> scores_;  // [keys][kQueryTile]
  alignas(Buffer::kAlignment) std::int32_t tile_scores_[kKeyTile * kQueryTile] = {};
};

}  // namespace ringscan::cpu
