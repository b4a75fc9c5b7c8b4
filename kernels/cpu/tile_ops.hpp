#pragma once
// What one query tile and one key tile do to each other, compiled once for each instruction set.
//
// Queries stand in the lanes and keys follow one another, so that row maxima, row sums and stick products are
// element-wise over the lanes. Arrangements, all float32 (the same on every instruction set):
//   lane rows    [lane group][row][32]: queries^T (row: head_dim), out^T (row: v_dim), scores^T (row: key)
//   panels       [row / 4][depth][4]: keys (row: key, depth: head_dim), values^T (row: v_dim, depth: key of the tile)

#include <cstddef>
#include <cstdint>

#include "core/element_type.hpp"

namespace ringscan::cpu {

inline constexpr std::size_t kQueryTile = 64;  ///< lanes
inline constexpr std::size_t kLaneGroup = 32;  ///< lanes that go through all phases together, to stay in the L1 cache
inline constexpr std::size_t kLaneGroups = kQueryTile / kLaneGroup;
inline constexpr std::size_t kKeyTile = 64;
inline constexpr std::size_t kPanel = 4;       ///< rows of a panel
inline constexpr std::size_t kRowStep = 8;     ///< panels are filled up with zeros to a multiple of this many rows
inline constexpr std::size_t kMaxVector = 16;  ///< floats in the widest vector

/// Running maximum of a row that has seen no key. Finite, so that the difference of two of them is no NaN.
inline constexpr float kNoMax = -1e30f;

constexpr std::size_t round_up(std::size_t n, std::size_t step) {
  return (n + step - 1) / step * step;
}

/// Rows of one head in a view, `stride` elements apart.
struct RowSource {
  const std::byte* data = nullptr;
  ElementType type = ElementType::kFloat32;
  std::int64_t stride = 0;
  std::size_t count = 0;
  std::size_t dim = 0;
};

/// A key tile under a query tile. Key r is visible to the lanes [first_lane + r, last_lane + r].
struct TileTask {
  const float* queries = nullptr;  ///< lane rows, premultiplied: the scores come out as z log2 e
  const float* keys = nullptr;     ///< panels
  const float* values = nullptr;   ///< panels
  std::size_t head_dim = 0;
  std::size_t out_rows = 0;  ///< v_dim rounded up to kRowStep
  std::size_t num_keys = 0;
  bool masked = false;  ///< some pair is not visible
  int first_lane = 0;
  int last_lane = 0;
  const float* first_keys = nullptr;  ///< masked: lane l sees keys r >= first_keys[l] alone; null: no such bound
  std::int64_t first_position = 0;    ///< global token of key 0
  bool first = false;                 ///< the accumulators are at the identity, `out` uninitialised
  float* scores = nullptr;            ///< scratch [kKeyTile][kLaneGroup]
};

/// Accumulators of a query tile: `out` as lane rows, the others one a lane.
struct LseLanes {
  float* out;  ///< sum 2^(x - max) v; cog: sum sign(x) 2^(|x| - max) v
  float* max;  ///< of x = z log2 e (cog: |x|); kNoMax: no key
  float* sum;  ///< of 2^(x - max)
};
struct StickLanes {
  float* out;
  float* log2_stick;      ///< rounded
  float* log2_stick_low;  ///< what rounding took: a million tiny steps add up right
};

/// The search for the k-th largest score, one a lane. Scores are compared as the integers of their ordered bits.
inline constexpr std::size_t kSearchBins = 256;
struct alignas(128) SearchRows {
  enum Phase : std::uint8_t {
    kGuessed,    ///< [low, high] may miss the threshold
    kNarrowing,  ///< it lies in [low, high]
    kTies,       ///< it is `low`; the farthest key of that score that is kept lies in [first, last]
    kExact,      ///< keys over `low`, and those of `low` from position `first` on, are kept
  };
  std::int32_t low[kQueryTile];
  std::int32_t high[kQueryTile];  ///< kExact: no score lies in [low, high]
  std::int64_t first[kQueryTile];
  std::int64_t last[kQueryTile];
  std::int64_t wanted[kQueryTile];  ///< keys to keep
  std::int64_t over[kQueryTile];    ///< keys counted over the range
  std::uint8_t shift[kQueryTile];   ///< a bin is 2^shift scores or positions wide
  Phase phase[kQueryTile];
};
/// No score has these ordered bits: all are over it.
inline constexpr std::int32_t kUnderAllScores = INT32_MIN;

/// The functions of one instruction set.
struct TileOps {
  std::int64_t target;  ///< Highway's number for it

  /// Each packs `source` as float32. `rows` is scratch of kQueryTile * round_up(dim, kMaxVector) floats. Packing keys
  /// and queries writes up to kPanel * kMaxVector floats past the end.
  void (*pack_keys)(const RowSource& source, float* rows, float* panels);
  void (*pack_values)(const RowSource& source, float* rows, float* panels);
  void (*pack_queries)(const RowSource& source, float factor, float* rows, float* panels, float* lanes);

  void (*softmax_tile)(const TileTask& task, const LseLanes& lanes);
  void (*cog_tile)(const TileTask& task, const LseLanes& lanes);
  void (*stick_tile)(const TileTask& task, const StickLanes& lanes);

  /// ordered[key][kQueryTile] = the ordered bits of every score.
  void (*order_scores)(const TileTask& task, std::int32_t* ordered);
  /// Counts a tile into `bins` [kSearchBins][kQueryTile]; `all`, where not null, takes the tile's weights (no out).
  void (*count_tile)(const TileTask& task, SearchRows& rows, std::uint32_t* bins, const LseLanes* all);
  /// Softmax over keys whose ordered score is over low[lane], or equal to it with r >= cuts[lane].
  void (*chosen_tile)(const TileTask& task, const std::int32_t* low, const std::int32_t* cuts, const LseLanes& lanes);

  /// `near` becomes the join of both.
  void (*join_lse)(const LseLanes& near, const LseLanes& far, std::size_t out_rows);
  void (*join_stick)(const StickLanes& near, const StickLanes& far, std::size_t out_rows);

  /// rows[lane][row] = out[row][lane] / divisor[lane]; rows are `out_rows` apart.
  void (*lanes_to_rows)(const float* out, const float* divisor, std::size_t out_rows, float* rows);
  /// Rounds `count` floats to `type`.
  void (*store_row)(const float* row, ElementType type, void* to, std::size_t count);
};

/// Those of the best instruction set that this machine has.
const TileOps& tile_ops();

}  // namespace ringscan::cpu
