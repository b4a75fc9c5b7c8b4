#pragma once
// The main job: a run configuration becomes a plan, the plan becomes a run.

#include <functional>
#include <memory>
#include <string_view>

#include "comm/transport.hpp"
#include "core/error.hpp"
#include "engine/run_config.hpp"
#include "engine/run_report.hpp"
#include "io/file_access.hpp"
#include "kernels/kernels.hpp"

namespace ringscan {

/// What a run stands on; made by the program, or by a test.
struct RunContext {
  Transport* transport = nullptr;
  /// A way to open files for a group of the same ranks (the run asks for one of its own, apart from `transport`).
  std::function<std::unique_ptr<FileAccess>(Transport& group)> make_access;
  /// Ranks that share this machine's memory: what --memory defaults to is divided by them.
  int ranks_on_node = 1;
  int rank_on_node = 0;  ///< this one among them: the GPU it takes
  /// Told once, before anything is read or computed, what is going to be: a report with its plan, what was found
  /// complete, and the backend, but no figures yet. Not for a dry run, nor where nothing is left to do.
  std::function<void(const RunReport& begun)> on_start;
  /// Told how far this rank is, 0 to 1, and what it does.
  std::function<void(double fraction, std::string_view phase)> on_progress;
  /// Asked between head groups and between blocks: whether the job is to stop, resumably. On one rank is enough; set on
  /// all ranks or on none.
  std::function<bool()> should_stop;
  /// Called where this rank alone has failed: must release the others from their waiting (and may end the process).
  std::function<void(const Error&)> on_lone_failure;
  /// Where a test brings kernels of its own; else make_kernels().
  std::function<std::unique_ptr<Kernels>()> make_kernels;
};

/// The backend that `name` (auto, cpu, cuda) stands for on this rank; auto: cuda where every rank has a GPU of its own.
/// Collective. @throws Error(kBadInput) where it is not in this build, or a rank has no GPU.
std::unique_ptr<Kernels> make_kernels(const std::string& name, const RunContext& context);

/// The way between memories of GPUs, NCCL with context.transport for all else; null where a rank's kernels compute
/// elsewhere, in a job of one rank, or in a build without NCCL: then keys go through the host's memory. Collective.
/// @throws Error(kFailure) on all ranks where NCCL does not start.
std::unique_ptr<Transport> make_device_transport(const Kernels& kernels, const RunContext& context,
                                                 double hop_limit_seconds);

/// Collective. With config.dry_run it stops after planning. Where should_stop says so, it stops with what is complete
/// in a partial output, from which config.resume goes on. @throws Error.
RunReport run(const RunConfig& config, const RunContext& context);

}  // namespace ringscan
