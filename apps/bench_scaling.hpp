#pragma once
// ringscan bench comm, strong, weak: launched once with the most ranks; fewer are the first ranks of these.

#include <string>
#include <vector>

#include "apps/job.hpp"
#include "apps/options.hpp"
#include "apps/scaling_plot.hpp"
#include "kernels/kernels.hpp"

namespace ringscan {

/// Collective. What each rank may use, of its node's memory and of its device's.
std::size_t memory_a_rank(Job& job, const Kernels& kernels);

/// Collective. strong: the same job on more and more ranks; weak: seq_lens are tokens a rank. The time of a repetition
/// is the slowest rank's; one repetition before them is not counted. Points of one length are measured in turn. Returns
/// them, on rank 0. @throws Error.
std::vector<ScalingFigures> bench_scaling(Job& job, const BenchOptions& options, std::string& json_lines);

/// Collective. Every rank sends to the next and receives from the one before, as in the ring: seconds by bytes.
void bench_comm(Job& job, const BenchOptions& options, std::string& json_lines);

}  // namespace ringscan
