#pragma once
// How far sticks reach, as a distribution, and what of a ring early exit leaves to be computed under it.

#include <cstdint>
#include <vector>

#include "core/token_run.hpp"

namespace ringscan {

/// A row's reach is the number of keys, near first, that it meets until its stick is under epsilon. log P(reach > d) is
/// a straight line from d = 0 through the median and on through the 99th percentile, and goes on behind it. Rows of a
/// query tile are independent, which makes a tile reach at least as far as it would with rows that are alike.
class ReachModel {
 public:
  /// In tokens, as `analyze` names them; `tile` rows and keys are computed, or skipped, together.
  /// @pre 0 < median < percentile_99, tile >= 1.
  ReachModel(double median, double percentile_99, double tile);

  /// P(reach > distance).
  double survival(double distance) const;

  /// What is expected of a part's work, in tokens and pairs of one head.
  struct Work {
    double rows = 0.0;   ///< rows whose tile is not done when the part begins
    double pairs = 0.0;  ///< pairs of tiles that are computed
  };
  /// Queries meet keys that end with them (their own), having met all nearer ones.
  Work own(std::int64_t tokens) const;
  /// Queries meet keys that end `gap` tokens before the first query, having met all nearer ones.
  Work before(std::int64_t queries, std::int64_t gap, std::int64_t keys) const;
  /// Expected number of rows of a run that are not done once they have met the keys down to `gap` tokens before it.
  double open_rows(std::int64_t queries, std::int64_t gap) const;

 private:
  double sum_of_open(double tiles) const;  // sum of open_ over the first `tiles`
  double sum_of_sums(double tiles) const;  // sum over n = 1..tiles of sum_of_open(n)

  double median_;
  double percentile_99_;
  double tile_;
  std::vector<double> open_;   // P(a tile is not done once it has met n tiles of keys)
  std::vector<double> sums_;   // prefix sums of open_
  std::vector<double> sums2_;  // prefix sums of sums_
};

}  // namespace ringscan
