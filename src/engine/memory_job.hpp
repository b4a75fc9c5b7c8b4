#pragma once
// A job without files: the passes of a run over synthetic activations in memory, to be timed again and again.

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "comm/transport.hpp"
#include "core/buffer.hpp"
#include "engine/layer_io.hpp"
#include "engine/memory_block.hpp"
#include "engine/resident.hpp"
#include "engine/ring_pass.hpp"
#include "engine/run_plan.hpp"
#include "kernels/kernels.hpp"

namespace ringscan {

/// A rank's share of a shard: q, k and v standard normal, log decays (Decay::kToken) -0.1 |normal|; made from the
/// rank's number, so that another number of ranks has other values. Beyond kDistinctSyntheticValues of a tensor they
/// repeat.
ShardInput make_synthetic_input(const RunConfig& config, const LayerShape& layer, const ShardPlan& shard, int rank,
                                MemoryLedger* ledger);

/// One layer's heads and blocks, planned as run() plans them: heads with make_synthetic_input(), blocks with what
/// synthetic_block_spec() says.
/// @pre no remainder vectors, no context and no initial state.
class MemoryJob {
 public:
  /// Collective. @throws Error(kBadInput) where the job does not fit in `memory_bytes` a rank.
  MemoryJob(const RunConfig& config, const LayerShape& layer, std::size_t memory_bytes, Transport& transport,
            Kernels& kernels, const SyntheticBlockSizes& sizes = {});

  const RunPlan& plan() const { return plan_; }

  /// Collective. All passes once; figures are of this rank. FLOPs are useful ones: of a block its plan's, by the rank's
  /// share of the tokens.
  RingPassResult run();

  /// (batch, token, channel) triples of blocks that a state from an earlier rank reached in the last run.
  std::int64_t reached_by_state() const { return reached_by_state_; }

 private:
  struct Shard {
    ShardInput input;
    ShardOutput output;
    ResidentInput near_input;
    std::optional<ResidentOutput> near_output;
  };

  struct Block {
    SyntheticSpec spec;
    std::unique_ptr<MemoryBlock> inputs;
  };

  void run_shard(const ShardPlan& plan, Shard& shard, RingPassResult& result);
  void run_block(const BlockPlan& plan, MemoryBlock& block, RingPassResult& result);

  const RunConfig& config_;
  Transport& transport_;
  Kernels& kernels_;
  RunPlan plan_;
  MemoryLedger ledger_;
  StickLengths sticks_;
  std::vector<Shard> shards_;
  std::optional<BlockKernels> block_kernels_;
  std::vector<Block> blocks_;
  std::int64_t reached_by_state_ = 0;
};

}  // namespace ringscan
