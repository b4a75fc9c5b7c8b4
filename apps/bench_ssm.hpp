#pragma once

#include <cstdint>

#include "apps/measurement.hpp"

namespace ringscan {

/// A selective scan (kSsmBenchChannels channels, 16 states, gate, float32) on one thread, and what binds it.
struct SsmFigures {
  double seconds = 0.0;         ///< processor time of one scan, the median
  double exp_seconds = 0.0;     ///< its exponentials alone, at the rate they have in registers
  double memory_seconds = 0.0;  ///< its bytes alone, at the rate of a copy that is larger than the caches
  /// Times the one that binds, the larger of the two, of what was measured in turn.
  Quartiles ratio;
};

inline constexpr std::int64_t kSsmBenchChannels = 512;

SsmFigures bench_ssm(std::int64_t seq_len, int repeats);

}  // namespace ringscan
