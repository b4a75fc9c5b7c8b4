#pragma once
// The oracle: each mechanism's definition (docs/mechanisms.md) in float64 and plain loops, for one query row. It shares
// no code with the kernels.

#include <cstdint>
#include <span>
#include <vector>

#include "mechanism/mechanism.hpp"

namespace ringscan::oracle {

/// One head's keys and values [0, seq_len), row-major, in float64 (rounded to the tested type beforehand).
struct HeadKeys {
  std::span<const double> k;  ///< [seq_len, head_dim]
  std::span<const double> v;  ///< [seq_len, v_dim]
  std::int64_t seq_len = 0;
  std::int64_t head_dim = 0;
  std::int64_t v_dim = 0;
};

/// Rounding of a float32 score, relative to scale |q| |k|.
inline constexpr double kScoreRounding = 4e-6;

struct Row {
  std::vector<double> o;   ///< [v_dim]
  double statistic = 0.0;  ///< lse (natural log; -inf where no key is seen), or the remainder
  double kept_mass = 1.0;  ///< sparse: the kept keys' share of the softmax over all visible keys
  /// Top-k: how far, relative to max|v|, o may move where float32 scores order near ties otherwise. Scores within
  /// kScoreRounding scale |q| max|k| of the threshold may change places with it, unless their key equals the
  /// threshold's element by element: those have one score in any arithmetic, and positions decide.
  double slack = 0.0;
};

/// Row `query` (global index) with query vector q [head_dim].
Row softmax_row(const SoftmaxParams& params, const HeadKeys& keys, std::span<const double> q, std::int64_t query,
                double scale);

Row cog_row(const CogParams& params, const HeadKeys& keys, std::span<const double> q, std::int64_t query, double scale);

/// Keys row `query` keeps: min(n, max(min_keys, ceil(alpha n^exponent))), a relative 1e-14 over a whole number not
/// counted.
std::int64_t sparse_keys_kept(const SparseParams& params, std::int64_t query, std::int64_t seq_len);
Row sparse_row(const SparseParams& params, const HeadKeys& keys, std::span<const double> q, std::int64_t query,
               double scale);

/// `remainder_vector` [v_dim] is read only where the policy is kVector. Ignores params.epsilon: the exact result.
Row stick_breaking_row(const StickBreakingParams& params, const HeadKeys& keys, std::span<const double> q,
                       std::int64_t query, double scale, std::span<const double> remainder_vector);

Row row(const Mechanism& mechanism, const HeadKeys& keys, std::span<const double> q, std::int64_t query, double scale,
        std::span<const double> remainder_vector);

}  // namespace ringscan::oracle
