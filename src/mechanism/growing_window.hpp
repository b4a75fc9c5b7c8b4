#pragma once

#include <cstdint>
#include <vector>

#include "core/token_run.hpp"
#include "mechanism/mechanism.hpp"

namespace ringscan {

/// How many keys a row of n^C-sparse attention keeps: k_i = min(i + 1, max(min_keys, ceil(alpha n_i^exponent))), with
/// n_i = i + 1 or, under SparseCount::kTotal, seq_len. A power within a relative 1e-14 above a whole number counts as
/// that number, so that its rounding never adds a key.
class GrowingWindow {
 public:
  /// @pre seq_len >= 0, 0 < exponent <= 1, alpha > 0, min_keys >= 1.
  GrowingWindow(const SparseParams& params, std::int64_t seq_len);

  std::int64_t keys_kept(std::int64_t query) const;
  /// Of each query of a run: a few powers for each key that the window grows by, instead of one for each query.
  std::vector<std::int64_t> keys_kept(const TokenRun& queries) const;
  /// The largest i - j of a window of the nearest k_i keys. The farthest key, i - reach(i), never moves back as i
  /// grows: k_i grows by at most one a row.
  std::int64_t reach(std::int64_t query) const { return keys_kept(query) - 1; }
  /// The reaches of windows of so many keys.
  static std::vector<std::int64_t> reaches_of(std::vector<std::int64_t> kept);
  /// Sum of keys_kept over a run.
  std::int64_t count_kept(const TokenRun& queries) const;

 private:
  std::int64_t wanted(std::int64_t num_keys) const;
  template <typename F>
  void for_each_size(const TokenRun& queries, F&& f) const;

  SparseParams params_;
  std::int64_t wanted_of_total_ = 0;  // under SparseCount::kTotal
};

}  // namespace ringscan
