#pragma once
// What run() does once it has a plan and its files are open.

#include <future>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/buffer.hpp"
#include "engine/block_job.hpp"
#include "engine/context_files.hpp"
#include "engine/io_queue.hpp"
#include "engine/layer_io.hpp"
#include "engine/progress_keeper.hpp"
#include "engine/resident.hpp"
#include "engine/ring_pass.hpp"
#include "engine/run.hpp"

namespace ringscan {

/// One run of one rank. Shards are worked through in the plan's order; while one computes, the I/O queue reads the
/// next and writes the last where the plan says that this overlaps.
class RunJob {
 public:
  /// `config`, `context`, the report and all that it names must outlive it. `initial` holds the states to go on from,
  /// null: none; `earlier` the files of --context.
  RunJob(const RunConfig& config, const RunContext& context, ActivationReader& reader, ActivationReader* initial,
         ContextFiles& earlier, Kernels& kernels, ProgressKeeper& keeper, RunReport& report);

  /// Collective. Works through report.plan, and adds this rank's figures to the report. @throws Error.
  void work(ActivationWriter& writer);

  const MemoryLedger& ledger() const { return ledger_; }
  /// On request, before all was done.
  bool is_stopped() const { return is_stopped_; }

 private:
  /// A shard as read, and where its kernels read it.
  struct Arrived {
    ShardInput input;
    ResidentInput resident;
    double staging_seconds = 0.0;
  };

  /// What compute() leaves: the heads that are done, and those of them (places in the shard) whose rows are still where
  /// the kernels wrote them.
  struct Computed {
    std::set<int> heads;
    std::optional<ResidentOutput> resident;
    std::vector<int> resident_heads;
  };

  /// Rows of these heads are on their way to the file.
  struct Writing {
    std::future<double> done;  // seconds of copying from the device
    int layer = 0;
    std::vector<int> heads;
  };

  /// The heads of kernels on the host read and write the shard itself.
  bool is_resident(const PassPlan& pass) const;

  /// From the file and on to the device, beside the computing where the queue has a thread.
  std::future<Arrived> start_reading(IoQueue& queue, std::size_t index);

  /// From the device, where rows are still there, and on to the file, likewise.
  Writing start_writing(IoQueue& queue, ActivationWriter& writer, const ShardPlan& shard, ShardOutput output,
                        Computed computed);

  void bring_back(Computed& computed, double& seconds);

  /// Waits for it; `more`: work is left, for which the record is worth its while.
  void end_writing(Writing& writing, bool more);

  void work_through_shards(IoQueue& queue, ActivationWriter& writer);

  const DatasetInfo* o_of(const std::string& layer) const;

  void work_through_blocks(const std::vector<BlockOutput>& outputs, ActivationWriter& writer);

  /// All heads, or those of the groups before the one that a stop kept from beginning.
  Computed compute(const ShardPlan& shard, const Arrived& arrived, ShardOutput& output, IoQueue& queue);

  /// Of the whole run's work.
  double share_of(const PassPlan& pass, const HeadGroup& group) const;

  /// `resident`: where rows go that do not go to the output itself.
  void run_group(const ShardPlan& shard, const PassPlan& pass, const HeadGroup& group, const Arrived& arrived,
                 ShardOutput& output, const ResidentOutput* resident, IoQueue& queue);

  void add_result(const RingPassResult& result);

  const RunConfig& config_;
  const RunContext& context_;
  Transport& transport_;
  ActivationReader& reader_;
  ActivationReader* initial_;
  ContextFiles& earlier_;
  Kernels& kernels_;
  ProgressKeeper& keeper_;
  RunReport& report_;
  const RunPlan& plan_;
  std::vector<LayerOutput> outputs_;
  MemoryLedger ledger_;
  StickLengths sticks_;
  double behind_ = 0.0;
  bool is_stopped_ = false;
};

}  // namespace ringscan
