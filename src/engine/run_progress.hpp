#pragma once
// What of a run is complete, where it was stopped before its end.

#include <map>
#include <set>
#include <string>
#include <vector>

#include "engine/layer_io.hpp"
#include "engine/run_config.hpp"
#include "engine/run_plan.hpp"

namespace ringscan {

/// Stands beside a partial output. Another run may go on from it where what the elements depend on is the same.
struct RunProgress {
  std::string configuration;                   ///< RunConfig::result_text()
  std::string files;                           ///< size and time of each input
  std::string backend;                         ///< cpu or cuda, which round differently
  int world_size = 0;                          ///< 0: the elements do not depend on it (reproducible)
  std::map<std::string, std::set<int>> heads;  ///< by layer: those whose rows are in the file
  std::set<std::string> blocks;                ///< key_of() those whose rows are in the file

  std::size_t count_heads() const;
};

/// Rank 0's view of the input files. @throws Error(kBadInput) where one is not there.
RunProgress begin_progress(const RunConfig& config, const std::string& backend, int world_size);

std::string to_json(const RunProgress& progress);
/// @throws Error(kBadInput) naming `where`.
RunProgress parse_progress(const std::string& json, const std::string& where);

/// @throws Error(kBadInput) naming what is not as it was then, and `output`.
void check_same_job(const RunProgress& then, const RunProgress& now, const std::string& output);

/// Names a block of a job.
std::string key_of(const BlockPlan& block);

/// The shard with only those of its heads that `keeps`, in the groups they are in; its figures shrink alike.
ShardPlan keep_heads(const ShardPlan& shard, const LayerShape& layer, const std::set<int>& keeps);

/// Leaves out what is complete.
void skip_complete(RunPlan& plan, const RunProgress& progress);

/// The rows and states of `part`'s heads alone, `part` being keep_heads() of `shard`.
ShardOutput pick_heads(const ShardOutput& output, const LayerShape& layer, const ShardPlan& shard,
                       const ShardPlan& part, const RunConfig& config, MemoryLedger* ledger);

}  // namespace ringscan
