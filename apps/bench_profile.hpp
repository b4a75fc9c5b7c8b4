#pragma once
// bench profile: what `plan` has to know of a machine. bench io: collective reading and writing.

#include <string>

#include "apps/job.hpp"
#include "apps/options.hpp"
#include "engine/cost_profile.hpp"

namespace ringscan {

/// Collective; at least two ranks, as many as compute at once. Measures kernels, links and (with options.file) files;
/// rank 0 prints. @throws Error.
CostProfile bench_profile(Job& job, const BenchOptions& options);

/// Collective. Writes and reads options.file for each number of tokens by each number of ranks, a slab a rank; adds
/// JSON lines. @throws Error.
void bench_io(Job& job, const BenchOptions& options, std::string& json_lines);

/// Collective. Bytes a second of all ranks together.
struct IoRates {
  double written = 0.0;
  double read = 0.0;
};
/// One repetition with `seq_len` tokens of options' heads, over a group and an access of it.
IoRates measure_io(RankGroup& group, FileAccess& access, const BenchOptions& options, std::int64_t seq_len);

}  // namespace ringscan
