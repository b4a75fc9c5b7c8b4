#pragma once
// The key tiles of measure_kernels.hpp, compiled once for each instruction set.

#include "kernels/cpu/tile_ops.hpp"

namespace ringscan::cpu {

/// Counters of a query tile: one lane a query.
struct ReachLanes {
  const float* log2_stick;      ///< before the key block
  const float* log2_stick_low;  ///< what rounding took of it
  float* block_log2_stick;      ///< since the key block began
  const float* log2_epsilons;   ///< [num_epsilons]
  std::size_t num_epsilons = 0;
  float* keys;  ///< [num_epsilons][kQueryTile]: of this tile alone
};

struct MeasureTileOps {
  /// keys = those of the tile that each lane meets while its stick is at least epsilon; the stick takes the tile in.
  void (*reach_tile)(const TileTask& task, const ReachLanes& lanes);
  /// Scores of one lane group become weights 2^(x - log2_sums[lane]). Keys that a lane does not see are not masked.
  void (*weigh_tile)(const TileTask& task, std::size_t group, const float* log2_sums);
};

const MeasureTileOps& measure_tile_ops();

}  // namespace ringscan::cpu
