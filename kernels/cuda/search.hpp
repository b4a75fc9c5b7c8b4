#pragma once
// The search for the k-th largest score of each row on a device, as its rounds of counting leave it in memory.
//
// A round counts the keys over a row's range of scores, and looks closer at those in it. Two ways: bins, which narrow
// any range 256-fold; or, where few keys are expected, a list of their scores, which ends the search. The list of a row
// lies where its bins lie, in four parts, since four threads of a Hopper kernel share a row: the last word of each is
// its length.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.hpp"

namespace ringscan::cuda {

/// What the next round does with a row.
enum Phase : std::int32_t {
  kNarrowing,   ///< bins of scores
  kGuessed,     ///< the same, in a range that the sample said
  kTies,        ///< bins of positions: all scores of the range are one
  kExact,       ///< nothing: keys over `low` are kept, and those of `low` from position `first` on
  kListed,      ///< a list of scores
  kListedTies,  ///< a list of positions, as offsets from `first`
};

/// One row. Scores stand as the bits of scale log2(e) <q, k>, ordered as integers.
struct SearchRow {
  std::int64_t wanted;  ///< keys kept
  std::int64_t over;    ///< keys over the range, counted in this round
  std::int64_t first;   ///< positions: of the threshold's keys, those from `first` on are kept or searched
  std::int64_t last;
  std::int32_t low;  ///< the range of scores
  std::int32_t high;
  std::int32_t phase;
  std::int32_t shift;   ///< bins are 2^shift wide
  std::int32_t misses;  ///< rounds with a list that did not hold the threshold
  std::int32_t unused;
};

inline constexpr std::int64_t kSearchBins = 256;
inline constexpr int kListParts = 4;
inline constexpr int kPartWords = 256;
inline constexpr int kPartKeys = kPartWords - 1;  ///< as many fit; the length is the last word
inline constexpr std::int64_t kListWords = kListParts * kPartWords;
/// A part that did not hold all has as length how many there were, and holds the first so many of them at least.
inline constexpr int kSureKeys = 252;
/// Length of a part that is of no use.
inline constexpr std::uint32_t kUnknown = 0xFFFFFFFFu;
/// So many keys fit, however they fall on the parts.
inline constexpr std::int64_t kSureToFit = 248;
/// Query rows that share a flag of being searched still.
inline constexpr std::int64_t kFlagRows = 64;

/// The search of kernels.hpp's TopkBlock, on a device.
struct DeviceSearch {
  PartialShape shape;             ///< v_dim is not read
  std::int64_t first_query = 0;   ///< global token of row 0
  SearchRow* rows = nullptr;      ///< [batch, slots, rows]
  std::uint32_t* bins = nullptr;  ///< [batch, slots, rows, words]; not needed once the search is over
  /// [0]: rows whose choice is not exact yet, as of the last narrow(). With lists, behind it [batch, slots, ceil(rows /
  /// kFlagRows)]: not 0 where there is such a row.
  std::uint32_t* open = nullptr;
  bool has_lists = false;   ///< words is kListWords, else kSearchBins
  float scale_log2 = 0.0f;  ///< scale log2(e); read where there are lists
};

constexpr std::int64_t search_words(bool has_lists) {
  return has_lists ? kListWords : kSearchBins;
}
constexpr std::int64_t flags_a_stream(const PartialShape& shape) {
  return ceil_div(shape.rows, kFlagRows);
}
constexpr std::size_t search_rows_bytes(const PartialShape& shape) {
  return static_cast<std::size_t>(shape.batch * shape.slots * shape.rows) * sizeof(SearchRow);
}
constexpr std::size_t search_bins_bytes(const PartialShape& shape, bool has_lists = false) {
  return static_cast<std::size_t>(shape.batch * shape.slots * shape.rows * search_words(has_lists)) *
         sizeof(std::uint32_t);
}
constexpr std::size_t search_open_bytes(const PartialShape& shape, bool has_lists = false) {
  return sizeof(std::uint32_t) *
         static_cast<std::size_t>(1 + (has_lists ? shape.batch * shape.slots * flags_a_stream(shape) : 0));
}

namespace portable {

/// Rows before there is a sample: keys_kept (device memory, [rows]) largest scores of each are wanted.
void begin_listed_rows(const DeviceSearch& search, const std::int64_t* keys_kept, cudaStream_t stream);
/// What the lists hold are keys of a sample, at positions first + step i, `count` in all: each row's range becomes
/// where its threshold among all keys will be. Bins and lists are emptied.
void refine_listed_rows(const DeviceSearch& search, std::int64_t first, std::int64_t step, std::int64_t count,
                        std::int64_t min_delta, cudaStream_t stream);

}  // namespace portable
}  // namespace ringscan::cuda
