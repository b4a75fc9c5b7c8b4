#pragma once
// The oracle of linear attention with decay: its recurrence (docs/mechanisms.md), token by token, in float64 and plain
// loops. It shares no code with the kernels.

#include <cstddef>
#include <span>
#include <vector>

#include "mechanism/mechanism.hpp"

namespace ringscan::oracle {

/// One head's state as tokens go by.
class LinearRecurrence {
 public:
  LinearRecurrence(const LinearParams& params, std::size_t head_dim, std::size_t v_dim, double scale);

  /// The token's k [head_dim], v [v_dim] and log decay g, whose source is the caller's matter.
  void add(std::span<const double> k, std::span<const double> v, double log_decay);
  /// The output [v_dim] of a query q [head_dim] of the token that was added last.
  std::vector<double> output(std::span<const double> q) const;

  /// S [head_dim, v_dim] and n [head_dim]; may be set before the first token.
  std::vector<double>& s() { return s_; }
  std::vector<double>& n() { return n_; }

 private:
  std::vector<double> mapped(std::span<const double> x) const;

  LinearParams params_;
  std::size_t v_dim_;
  double scale_;
  std::vector<double> s_;
  std::vector<double> n_;
};

}  // namespace ringscan::oracle
