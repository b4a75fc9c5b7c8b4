#pragma once
// ringscan bench comm, strong, weak: launched once with the most ranks; fewer are the first ranks of these.

#include <string>
#include <vector>

#include "apps/job.hpp"
#include "apps/options.hpp"
#include "apps/scaling_plot.hpp"

namespace ringscan {

/// Collective. strong: the same job on more and more ranks; weak: seq_lens are tokens a rank. The time of a repetition
/// is the slowest rank's; one repetition before them is not counted. Returns the
/// points, on rank 0. @throws Error.
std::vector<ScalingFigures> bench_scaling(Job& job, const BenchOptions& options, std::string& json_lines);

/// Collective. Every rank sends to the next and receives from the one before, as in the ring: seconds by bytes.
void bench_comm(Job& job, const BenchOptions& options, std::string& json_lines);

}  // namespace ringscan
