#pragma once
// ringscan bench comm, strong, weak: launched once with the most ranks; fewer are the first ranks of these.

#include <string>
#include <vector>

#include "apps/job.hpp"
#include "apps/options.hpp"
#include "apps/scaling_plot.hpp"
#include "kernels/kernels.hpp"

namespace ringscan {

/// The configuration of a studied mechanism: softmax, stick-breaking, stick-dense, cog, sparse-window, sparse-topk,
/// linear, ssm, mamba, chela (these three with the whole layer) or hybrid (heads in turn softmax, stick-breaking,
/// linear).
RunConfig study_config(const std::string& mechanism, int heads, const std::optional<LayoutKind>& layout);

/// Collective. The ranks from `ranks` on sleep until rank 0 comes here: in a collective call of MPI's they would spin,
/// and take processors from those that are measured.
void release_idle(Transport& transport, int ranks);

/// Collective. What each rank may use, of its node's memory and of its device's.
std::size_t memory_a_rank(Job& job, const Kernels& kernels);

/// Collective. strong: the same job on more and more ranks; weak: seq_lens are tokens a rank. The time of a repetition
/// is the slowest rank's; one repetition before them is not counted. Returns the
/// points, on rank 0. @throws Error.
std::vector<ScalingFigures> bench_scaling(Job& job, const BenchOptions& options, std::string& json_lines);

/// Collective. Every rank sends to the next and receives from the one before, as in the ring: seconds by bytes.
void bench_comm(Job& job, const BenchOptions& options, std::string& json_lines);

}  // namespace ringscan
