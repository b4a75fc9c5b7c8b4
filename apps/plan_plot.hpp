#pragma once
// A plan's points over numbers of ranks, and their picture.

#include <cstdint>
#include <string>
#include <vector>

#include "engine/prediction.hpp"

namespace ringscan {

struct PlanPoint {
  int world = 1;
  std::int64_t seq_len = 0;
  bool fits = false;  ///< in a rank's memory; else there is no prediction
  std::string layout;
  std::size_t memory_bytes = 0;  ///< a rank
  Prediction prediction;
  double efficiency = 0.0;  ///< (ranks x seconds) of the fewest that fit, by these
};

/// gnuplot's commands for a PNG at `path`: time and efficiency over the ranks, and where the time of the longest
/// sequence goes. @pre at least one point that fits.
std::string plan_plot_script(const std::vector<PlanPoint>& points, const std::string& title, const std::string& path);

}  // namespace ringscan
