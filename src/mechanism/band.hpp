#pragma once
// Which keys a query sees, as a band of i - j.

#include <cstdint>

#include "core/token_run.hpp"

namespace ringscan {

/// Query i sees key j where min_delta <= i - j <= max_delta. Causal: [0, inf). Strict: [1, inf). A window of w keys:
/// [0, w - 1]. Everything: (-inf, inf).
struct Band {
  /// Stands for infinity; far over any token index, and sums of a few of them do not overflow.
  static constexpr std::int64_t kUnbounded = std::int64_t{1} << 60;

  std::int64_t min_delta = -kUnbounded;
  std::int64_t max_delta = kUnbounded;

  constexpr bool sees(std::int64_t query, std::int64_t key) const {
    return min_delta <= query - key && query - key <= max_delta;
  }
  friend constexpr bool operator==(const Band&, const Band&) = default;
};

/// Number of pairs (i in queries, j in keys) that the band lets through; exact, in constant time.
std::int64_t count_pairs(const Band& band, const TokenRun& queries, const TokenRun& keys);

/// True where at least one pair is visible.
inline bool any_pair(const Band& band, const TokenRun& queries, const TokenRun& keys) {
  if (queries.empty() || keys.empty() || band.min_delta > band.max_delta) return false;
  // The deltas of the rectangle are a whole interval.
  const std::int64_t least = queries.begin - (keys.end - 1);
  const std::int64_t most = queries.end - 1 - keys.begin;
  return least <= band.max_delta && most >= band.min_delta;
}

/// True where every pair is visible.
inline bool all_pairs(const Band& band, const TokenRun& queries, const TokenRun& keys) {
  const std::int64_t least = queries.begin - (keys.end - 1);
  const std::int64_t most = queries.end - 1 - keys.begin;
  return band.min_delta <= least && most <= band.max_delta;
}

constexpr Band intersect(const Band& a, const Band& b) {
  return {a.min_delta > b.min_delta ? a.min_delta : b.min_delta, a.max_delta < b.max_delta ? a.max_delta : b.max_delta};
}

}  // namespace ringscan
