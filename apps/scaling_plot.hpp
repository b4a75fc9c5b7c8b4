#pragma once
// Pictures of a scaling study, drawn by gnuplot.

#include <cstdint>
#include <string>
#include <vector>

namespace ringscan {

/// Medians of one measuring point, in seconds of the slowest rank.
struct ScalingFigures {
  std::string mechanism;
  int ranks = 1;
  std::int64_t seq_len = 0;  ///< of the study's list: weak: a rank
  double seconds = 0.0;
  double compute_seconds = 0.0;
  double exposed_seconds = 0.0;
  double finish_seconds = 0.0;
  double efficiency = 0.0;
};

/// gnuplot's commands for a PNG at `path`: efficiency, share of the time that is not exposed communication, and the
/// time by phase. @pre not empty.
std::string scaling_plot_script(const std::string& study, const std::vector<ScalingFigures>& figures,
                                const std::string& path);

/// Draws it, whole or not at all. @throws Error(kFailure).
void draw_scaling_plot(const std::string& study, const std::vector<ScalingFigures>& figures, const std::string& path);

}  // namespace ringscan
