#pragma once
// What a pass over one head group did, and how long it took.

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.hpp"

namespace ringscan {

/// The share of the softmax's mass that the kept keys of sparse attention have, over rows.
struct KeptMassFigures {
  double sum = 0.0;
  std::int64_t rows = 0;
  double min = 1.0;
  /// Largest 2 (1 - mass) max||v|| of a row, v over its head's keys: no row of o is further from dense softmax.
  double error_bound = 0.0;

  KeptMassFigures& operator+=(const KeptMassFigures& other);
};

struct RingPassResult {
  AttendStats stats;
  double flops = 0.0;            ///< of the pairs whose score was computed
  KeptMassFigures kept_mass;     ///< where it was wanted
  double compute_seconds = 0.0;  ///< in the kernels
  double exposed_seconds = 0.0;  ///< moving or waiting for KV while not computing
  double context_seconds = 0.0;  ///< waiting for blocks of the context
  double finish_seconds = 0.0;   ///< rounding and writing out rows; packing KV for the way
  int steps_taken = 0;
  int steps_saved = 0;  ///< that early exit made unnecessary, on all ranks
  std::size_t sent_bytes = 0;

  RingPassResult& operator+=(const RingPassResult& other);
};

}  // namespace ringscan
