#pragma once
// An attention problem on the device: inputs in any layout, launches over pieces of the keys, and its exact result.

#include <cstdint>
#include <variant>
#include <vector>

#include "kernels/cuda/attend.hpp"
#include "mechanism/mechanism.hpp"

namespace ringscan::cuda::testing {

/// What the Hopper kernels compute; of sparse, growing windows.
using DeviceMechanism = std::variant<SoftmaxParams, StickBreakingParams, CogParams, SparseParams>;

struct Problem {
  DeviceMechanism mechanism;
  ElementType type = ElementType::kBfloat16;
  std::int64_t batch = 1;
  std::int64_t seq_len = 0;
  std::int64_t num_heads = 2;
  std::int64_t num_kv_heads = 1;
  std::int64_t head_dim = 64;
  TokenRun queries{0, -1};             ///< end < 0: the whole sequence
  std::vector<std::int64_t> key_cuts;  ///< descending: one launch for the keys from each cut on, near first
  std::int64_t head_gap = 0;           ///< poisoned elements behind each head
  std::int64_t token_stride = 0;       ///< in elements; 0: heads are dense
  float score_shift = 0.0f;            ///< added to all scores, in units of 1 / scale
  float input_scale = 1.0f;            ///< q and k are this times normal
  std::int64_t zero_key_every = 0;     ///< every so many tokens' k is all -0 beside positive q: sums of -0 alone
  std::uint32_t seed = 1;
};

struct Errors {
  double o = 0.0;          ///< largest |o - exact| over the largest |v|; infinity where something is NaN
  double statistic = 0.0;  ///< largest |statistic - exact|, for lse over max(1, |lse|)
  std::uint32_t tiles_loaded = 0;
};

inline Mechanism mechanism_of(const Problem& problem) {
  return std::visit([](const auto& params) -> Mechanism { return params; }, problem.mechanism);
}

/// Runs on the device with poisoned outputs, and compares every row of `queries` with the oracle.
Errors run_and_compare(const Problem& problem);

/// The bounds of docs/mechanisms.md: 1e-2 for bfloat16, 2e-3 for float16.
double bound(ElementType type);

}  // namespace ringscan::cuda::testing
