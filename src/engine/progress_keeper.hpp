#pragma once
// Keeps the record of what a run has completed, and hears when it is to stop.

#include <set>
#include <string>

#include "comm/transport.hpp"
#include "engine/run.hpp"
#include "engine/run_progress.hpp"
#include "io/file_access.hpp"

namespace ringscan {

/// One of each rank; the record is rank 0's and the same on all.
class ProgressKeeper {
 public:
  /// Collective. With config.resume it takes up an earlier run's record. @throws Error(kBadInput) where that was
  /// another job.
  ProgressKeeper(const RunConfig& config, const RunContext& context, const std::string& backend);

  /// Whether there is something to go on from.
  bool resumes() const { return resumes_; }
  const RunProgress& progress() const { return progress_; }

  /// Collective: whether any rank was asked to stop; stays so.
  bool is_stopping();

  void note_heads(const std::string& layer, const std::vector<int>& heads);
  void note_block(const BlockPlan& block);
  /// Collective. What was noted is in the partial output. @throws Error(kFailure).
  void save();

 private:
  const RunConfig& config_;
  const RunContext& context_;
  RunProgress progress_;
  bool resumes_ = false;
  bool is_stopping_ = false;
};

/// Collective: whether the output that --resume is to complete is complete already.
bool is_complete(const RunConfig& config, FileAccess& access);

}  // namespace ringscan
