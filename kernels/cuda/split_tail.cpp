#include "kernels/cuda/split_tail.hpp"

#include <algorithm>
#include <cmath>

namespace ringscan::cuda {
namespace {

// In times of a tile of 128 queries and 128 keys, 1.7 us on an H200 (docs/performance-cuda.md).
constexpr double kPartTiles = 4.0;     ///< an item's beginning and end, which nothing else hides
constexpr double kJoinTiles = 8.0;     ///< the kernel that joins, and the wait for it
constexpr double kJoinedTiles = 0.01;  ///< a partial on its way through memory
constexpr std::uint32_t kMostParts = 32;
constexpr std::int64_t kLeastTiles = 4;  ///< of a part

/// From the time when the first multiprocessor comes to the `items` last ones, `tiles` each on average, until all have
/// ended.
double tail_tiles(double items, double tiles, double parts, double multiprocessors, bool are_alike) {
  const double rounds = items * parts / multiprocessors;
  // Those that are alike end together. Others: the last one ends anywhere in a round.
  const double taken = are_alike ? std::ceil(rounds) : rounds + 0.5;
  const double joining = parts > 1 ? kJoinTiles + kJoinedTiles * items * (parts - 1) : 0.0;
  return taken * (tiles / parts + kPartTiles) + joining;
}

}  // namespace

TailSplit split_tail(std::uint32_t num_items, std::uint32_t num_multiprocessors, std::int64_t partial_bytes,
                     const std::function<std::int64_t(std::uint32_t)>& key_tiles) {
  if (num_items == 0 || num_multiprocessors == 0) return {};
  const std::uint32_t last_round = std::min(num_items, num_multiprocessors);
  std::int64_t sum = 0, least = key_tiles(num_items - 1), most = least;
  for (std::uint32_t i = num_items - last_round; i < num_items; ++i) {
    const std::int64_t tiles = key_tiles(i);
    sum += tiles;
    least = std::min(least, tiles);
    most = std::max(most, tiles);
  }
  const bool are_alike = 20 * (most - least) <= most;
  const std::uint32_t items = are_alike ? num_items % num_multiprocessors : last_round;
  if (items == 0) return {};
  const double tiles = static_cast<double>(sum) / static_cast<double>(last_round);
  const std::int64_t parts_with_room = 1 + kMostPartBytes / (partial_bytes * items);
  TailSplit best{items, 1};
  double best_tiles = tail_tiles(items, tiles, 1, num_multiprocessors, are_alike);
  for (std::uint32_t parts = 2; parts <= std::min<std::int64_t>(kMostParts, parts_with_room); ++parts) {
    if (parts * kLeastTiles > least) break;
    const double taken = tail_tiles(items, tiles, parts, num_multiprocessors, are_alike);
    if (taken >= best_tiles) continue;
    best = {items, parts};
    best_tiles = taken;
  }
  return best.num_parts == 1 ? TailSplit{} : best;
}

}  // namespace ringscan::cuda
