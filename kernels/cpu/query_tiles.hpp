#pragma once
// Which query tiles a key block meets, found without looking at those that it does not.

#include <algorithm>
#include <cstdint>
#include <span>

#include "core/token_run.hpp"
#include "kernels/cpu/lane_blocks.hpp"
#include "mechanism/band.hpp"

namespace ringscan::cpu {

/// The query tiles of a run, and the keys that each may see.
struct QueryTiling {
  TokenRun queries;
  Band band;
  std::span<const std::int64_t> max_deltas;  ///< of each query, beside the band's; empty: the band alone

  std::int64_t num_tiles() const { return ceil_div(queries.size(), kQueryTileTokens); }
  TokenRun tile(std::int64_t index) const {
    const std::int64_t begin = queries.begin + index * kQueryTileTokens;
    return {begin, std::min(begin + kQueryTileTokens, queries.end)};
  }
  /// Keys that at least one query of the tile sees.
  TokenRun visible_keys(std::int64_t index) const {
    const TokenRun run = tile(index);
    return {first_key(run.begin), run.end - band.min_delta};
  }
  /// The farthest key that a query may see; it never falls from one query to the next.
  std::int64_t first_key(std::int64_t query) const {
    if (max_deltas.empty()) return query - band.max_delta;
    return query - std::min(band.max_delta, max_deltas[static_cast<std::size_t>(query - queries.begin)]);
  }
  bool sees_all(const TokenRun& rows, const TokenRun& keys) const {
    return all_pairs(band, rows, keys) && (max_deltas.empty() || first_key(rows.end - 1) <= keys.begin);
  }
  std::int64_t pairs(const TokenRun& rows, const TokenRun& keys) const {
    if (max_deltas.empty()) return count_pairs(band, rows, keys);
    std::int64_t sum = 0;
    for (std::int64_t query = rows.begin; query < rows.end; ++query) {
      sum += intersect(TokenRun{first_key(query), query - band.min_delta + 1}, keys).size();
    }
    return sum;
  }
  /// As keys are walked downwards, a tile is entered once and left once; later tiles first.
  bool is_entered(std::int64_t index, const TokenRun& keys) const { return keys.begin < visible_keys(index).end; }
  bool is_left(std::int64_t index, const TokenRun& keys) const { return keys.end <= visible_keys(index).begin; }
};

/// All tiles that see the key block: an interval that moves down with it.
class TileInterval {
 public:
  explicit TileInterval(const QueryTiling& tiling)
      : tiling_(tiling), first_(tiling.num_tiles()), last_(tiling.num_tiles()) {}

  template <typename Skipped>
  void advance(const TokenRun& keys, Skipped&&) {
    while (first_ > 0 && tiling_.is_entered(first_ - 1, keys)) --first_;
    while (last_ > first_ && tiling_.is_left(last_ - 1, keys)) --last_;
  }
  /// meet(tile) returns true where the tile is done; that does not happen here.
  template <typename Meet>
  void visit(Meet&& meet) {
    for (std::int64_t tile = last_; tile-- > first_;) meet(tile);
  }

 private:
  QueryTiling tiling_;
  std::int64_t first_;
  std::int64_t last_;
};

/// Those among them that are not done, as a list: done tiles cost nothing, however many there are.
class OpenTiles {
 public:
  /// `done` one flag a tile, `list` room for one number a tile.
  OpenTiles(const QueryTiling& tiling, std::span<std::uint8_t> done, std::span<std::int32_t> list)
      : tiling_(tiling), done_(done), list_(list), next_(tiling.num_tiles()) {}

  /// Calls skipped(tile) for each tile that is found done already.
  template <typename Skipped>
  void advance(const TokenRun& keys, Skipped&& skipped) {
    for (; next_ > 0 && tiling_.is_entered(next_ - 1, keys); --next_) {
      if (done_[static_cast<std::size_t>(next_ - 1)] != 0) {
        skipped(next_ - 1);
      } else {
        list_[end_++] = static_cast<std::int32_t>(next_ - 1);
      }
    }
    while (begin_ < end_ && tiling_.is_left(list_[begin_], keys)) ++begin_;
  }
  /// meet(tile) returns true where the tile is done.
  template <typename Meet>
  void visit(Meet&& meet) {
    std::size_t kept = begin_;
    for (std::size_t i = begin_; i < end_; ++i) {
      const std::int32_t tile = list_[i];
      if (meet(std::int64_t{tile})) {
        done_[static_cast<std::size_t>(tile)] = 1;
      } else {
        list_[kept++] = tile;
      }
    }
    end_ = kept;
  }

 private:
  QueryTiling tiling_;
  std::span<std::uint8_t> done_;
  std::span<std::int32_t> list_;
  std::int64_t next_;  // tiles from here on have been entered
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

}  // namespace ringscan::cpu
