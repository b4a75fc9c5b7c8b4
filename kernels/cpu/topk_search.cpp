#include "kernels/cpu/topk_search.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

namespace ringscan::cpu {
namespace {

constexpr std::int32_t kLargest = std::numeric_limits<std::int32_t>::max();

/// The float that has these ordered bits.
float score_of(std::int32_t ordered) {
  return std::bit_cast<float>(ordered ^ (ordered >> 31 & 0x7fffffff));
}
std::int32_t ordered_of(float score) {
  const auto bits = std::bit_cast<std::int32_t>(score);
  return bits ^ (bits >> 31 & 0x7fffffff);
}

/// Bins of 2^shift, as many as there are at most, hold `width` + 1 values.
std::uint8_t shift_for(std::uint64_t width) {
  constexpr int kBinBits = 8;
  static_assert(kSearchBins == std::size_t{1} << kBinBits);
  return static_cast<std::uint8_t>(std::max(0, static_cast<int>(std::bit_width(width)) - kBinBits));
}

/// Keys over `low` are kept, and those of `low` from position `first` on.
void make_exact(SearchRows& rows, std::size_t lane, std::int32_t low, std::int64_t first) {
  rows.phase[lane] = SearchRows::kExact;
  rows.low[lane] = low;
  rows.high[lane] = kUnderAllScores;
  rows.first[lane] = first;
}

void search_scores(SearchRows& rows, std::size_t lane, std::int32_t low, std::int32_t high, SearchRows::Phase phase) {
  rows.phase[lane] = phase;
  rows.low[lane] = low;
  rows.high[lane] = high;
  rows.shift[lane] = shift_for(static_cast<std::uint64_t>(std::int64_t{high} - std::int64_t{low}));
}

void search_positions(SearchRows& rows, std::size_t lane, std::int64_t first, std::int64_t last) {
  rows.phase[lane] = SearchRows::kTies;
  rows.first[lane] = first;
  rows.last[lane] = last;
  rows.shift[lane] = shift_for(static_cast<std::uint64_t>(last - first));
}

/// The bin in which, counted from the top, the wanted number is reached.
struct Hit {
  std::int64_t bin = -1;  ///< -1: not reached
  std::int64_t kept = 0;  ///< keys in this bin and above
};

Hit find_bin(const SearchRows& rows, std::size_t lane, const std::uint32_t* bins) {
  Hit hit;
  hit.kept = rows.over[lane];
  for (hit.bin = static_cast<std::int64_t>(kSearchBins) - 1; hit.bin >= 0; --hit.bin) {
    hit.kept += bins[static_cast<std::size_t>(hit.bin) * kQueryTile + lane];
    if (hit.kept >= rows.wanted[lane]) break;
  }
  return hit;
}

void narrow_scores(SearchRows& rows, std::size_t lane, const std::uint32_t* bins, std::int64_t query) {
  const std::int32_t low = rows.low[lane];
  const std::int32_t high = rows.high[lane];
  if (rows.over[lane] >= rows.wanted[lane])
    return search_scores(rows, lane, high + 1, kLargest, SearchRows::kNarrowing);
  const Hit hit = find_bin(rows, lane, bins);
  if (hit.bin < 0) return search_scores(rows, lane, kUnderAllScores + 1, low - 1, SearchRows::kNarrowing);
  const std::int64_t bin_low = low + (hit.bin << rows.shift[lane]);
  const std::int64_t bin_high = std::min<std::int64_t>(high, bin_low + (std::int64_t{1} << rows.shift[lane]) - 1);
  if (hit.kept == rows.wanted[lane]) return make_exact(rows, lane, static_cast<std::int32_t>(bin_low), 0);
  search_scores(rows, lane, static_cast<std::int32_t>(bin_low), static_cast<std::int32_t>(bin_high),
                SearchRows::kNarrowing);
  if (bin_low == bin_high) search_positions(rows, lane, 0, query);
}

void narrow_positions(SearchRows& rows, std::size_t lane, const std::uint32_t* bins) {
  const Hit hit = find_bin(rows, lane, bins);
  const std::int64_t first = rows.first[lane] + (hit.bin << rows.shift[lane]);
  const std::int64_t last = std::min(rows.last[lane], first + (std::int64_t{1} << rows.shift[lane]) - 1);
  if (hit.kept == rows.wanted[lane]) return make_exact(rows, lane, rows.low[lane], first);
  search_positions(rows, lane, first, last);
}

/// True where all rows of the tile are exact.
bool narrow_tile(SearchRows& rows, std::uint32_t* bins, std::int64_t first_query) {
  bool exact = true;
  for (std::size_t lane = 0; lane < kQueryTile; ++lane) {
    if (rows.phase[lane] == SearchRows::kTies) {
      narrow_positions(rows, lane, bins);
    } else if (rows.phase[lane] != SearchRows::kExact) {
      narrow_scores(rows, lane, bins, first_query + static_cast<std::int64_t>(lane));
    }
    rows.over[lane] = 0;
    exact &= rows.phase[lane] == SearchRows::kExact;
  }
  if (!exact) std::fill_n(bins, kSearchBins * kQueryTile, 0u);
  return exact;
}

struct Range {
  std::int32_t low = kUnderAllScores + 1;
  std::int32_t high = kLargest;
};

/// Around the sample's quantile, four standard deviations of its rank to both sides and a little more; where that is
/// the sample's end, as much again.
Range guess_range(std::vector<std::int32_t>& sample, double share) {
  const auto count = static_cast<double>(sample.size());
  const double rank = share * count;
  const double spread = 4.0 * std::sqrt(rank * (1.0 - share)) + 4.0;
  const auto at = [&](double place) {
    const auto nth = sample.begin() + static_cast<std::ptrdiff_t>(std::clamp(place, 0.0, count - 1.0));
    std::nth_element(sample.begin(), nth, sample.end(), std::greater<>());
    return score_of(*nth);
  };
  const float top = at(rank - spread);
  const float bottom = at(rank + spread);
  const auto margin = [&](bool is_inside) { return (top - bottom) * (is_inside ? 0.1f : 1.0f); };
  Range range;
  if (!(std::abs(top) < 1e30f && std::abs(bottom) < 1e30f)) return range;
  // Adding 0 makes a -0 the 0 that scores are.
  range.low = ordered_of(bottom - margin(rank + spread < count) + 0.0f);
  range.high = ordered_of(top + margin(rank > spread) + 0.0f);
  return range;
}

}  // namespace

void begin_search(TopkBlock& block, const TokenRun& queries, std::span<const std::int64_t> keys_kept) {
  const LaneShape shape(block.shape);
  block.first_query = queries.begin;
  for (std::int64_t index = 0; index < shape.total_tiles; ++index) {
    SearchRows& rows = search_rows_at(block, index);
    const std::int64_t first_row = index % shape.num_tiles * kQueryTileTokens;
    for (std::size_t lane = 0; lane < kQueryTile; ++lane) {
      const std::int64_t row = first_row + static_cast<std::int64_t>(lane);
      const std::int64_t kept = row < block.shape.rows ? keys_kept[static_cast<std::size_t>(row)] : 0;
      rows.wanted[lane] = kept;
      rows.over[lane] = 0;
      rows.first[lane] = rows.last[lane] = 0;
      search_scores(rows, lane, kUnderAllScores + 1, kLargest, SearchRows::kNarrowing);
      if (row >= block.shape.rows || kept > queries.begin + row) make_exact(rows, lane, kUnderAllScores, 0);
    }
  }
}

void guess_ranges(SearchRows& rows, std::int64_t first_query, std::span<const std::int32_t> ordered_scores) {
  const std::size_t num_keys = ordered_scores.size() / kQueryTile;
  std::vector<std::int32_t> sample(num_keys);
  for (std::size_t lane = 0; lane < kQueryTile && num_keys > 0; ++lane) {
    if (rows.phase[lane] == SearchRows::kExact) continue;
    for (std::size_t key = 0; key < num_keys; ++key) sample[key] = ordered_scores[key * kQueryTile + lane];
    const auto num_visible = static_cast<double>(first_query + static_cast<std::int64_t>(lane) + 1);
    const Range range = guess_range(sample, static_cast<double>(rows.wanted[lane]) / num_visible);
    search_scores(rows, lane, range.low, range.high, SearchRows::kGuessed);
  }
}

bool narrow_search(TopkBlock& block) {
  const LaneShape shape(block.shape);
  auto* done = block.open.as<std::uint8_t>();
  bool exact = true;
  for (std::int64_t index = 0; index < shape.total_tiles; ++index) {
    if (done[index] == 0) {
      const std::int64_t first_query = block.first_query + index % shape.num_tiles * kQueryTileTokens;
      done[index] = narrow_tile(search_rows_at(block, index), bins_at(block, index), first_query) ? 1 : 0;
    }
    exact &= done[index] != 0;
  }
  if (exact) block.bins = Buffer();
  return exact;
}

}  // namespace ringscan::cpu
