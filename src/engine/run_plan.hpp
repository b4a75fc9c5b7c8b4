#pragma once
// Everything that is decided before data moves. Printed by --dry-run, and the same on every rank.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/element_type.hpp"
#include "engine/block_plan.hpp"
#include "engine/run_config.hpp"
#include "kernels/kernels.hpp"
#include "mechanism/mechanism.hpp"
#include "sequence/sequence_layout.hpp"

namespace ringscan {

/// The keys of a layer in an earlier file.
struct ContextPart {
  std::int64_t tokens = 0;
  ElementType kv_type = ElementType::kFloat32;  ///< in memory; k and v have one type
  std::size_t staging = 0;                      ///< bytes an element takes besides, while it is read and converted
};

/// The shapes and types of one layer's q, k, v.
struct LayerShape {
  std::string name;
  std::int64_t batch = 0;
  std::int64_t seq_len = 0;
  int num_heads = 0;
  int num_kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t v_dim = 0;
  ElementType q_type = ElementType::kFloat32;   ///< in memory
  ElementType kv_type = ElementType::kFloat32;  ///< in memory; k and v have one type
  ElementType o_type = ElementType::kFloat32;
  std::size_t q_staging = 0;         ///< bytes an element takes besides, while it is read and converted
  std::size_t kv_staging = 0;        ///< likewise
  std::vector<ContextPart> context;  ///< before the first token, earliest first

  std::int64_t context_tokens() const;
  /// What of the joined sequence the layer's own tokens are.
  TokenRun own_tokens() const { return {context_tokens(), context_tokens() + seq_len}; }

  /// The KV head that query head `head` reads.
  int kv_head_of(int head) const { return head / (num_heads / num_kv_heads); }
};

/// Heads that go round the ring together.
struct HeadGroup {
  std::vector<int> heads;     ///< of the layer, ascending
  std::vector<int> kv_heads;  ///< of the layer, ascending: what travels
};

/// One mechanism's heads within a shard.
struct PassPlan {
  Mechanism mechanism;
  double scale = 1.0;
  std::vector<HeadGroup> groups;
  int ring_steps = 0;               ///< of each group; top-k: with a typical number of search rounds
  std::int64_t pairs = 0;           ///< visible (query, key) pairs of all its heads and batch items; windows: kept ones
  double flops = 0.0;               ///< useful: 2 (head_dim + v_dim) a pair; top-k: v_dim for kept pairs alone
  std::size_t moved_bytes = 0;      ///< KV sent, over all ranks and groups
  std::size_t state_bytes = 0;      ///< linear: of a head, as it crosses ranks
  std::int64_t context_tokens = 0;  ///< that the first token reaches back to
  std::size_t context_bytes = 0;    ///< read of them by each rank, over all groups; early exit reads less
};

/// What a rank reads, computes and writes at once: its tokens of some heads of a layer, under one layout.
struct ShardPlan {
  int layer = 0;  ///< index into RunPlan::layers
  SequenceLayout layout;
  std::vector<int> heads;     ///< of the layer, ascending
  std::vector<int> kv_heads;  ///< of the layer, ascending
  std::vector<PassPlan> passes;
};

/// Where `heads`, ascending, has `head`. @pre it does.
int place_of(const std::vector<int>& heads, int head);
/// A group's heads by their places in the shard, as kernels want them.
std::vector<HeadSlot> slots_of(const ShardPlan& shard, const LayerShape& layer, const HeadGroup& group);

/// The most bytes any rank holds at once, by what they are for.
struct MemoryPlan {
  std::size_t input_bytes = 0;    ///< q, k, v shards (twice where reading overlaps computing)
  std::size_t output_bytes = 0;   ///< o and statistics shards (twice where writing overlaps computing)
  std::size_t kv_bytes = 0;       ///< the ring's two buffers
  std::size_t partial_bytes = 0;  ///< fp32 accumulators
  std::size_t scratch_bytes = 0;  ///< of the kernels, and for conversion while reading and writing
  std::size_t context_bytes = 0;  ///< blocks of the context (two where reading overlaps computing)

  std::size_t total() const {
    return input_bytes + output_bytes + kv_bytes + partial_bytes + scratch_bytes + context_bytes;
  }
};

struct RunPlan {
  int world_size = 1;
  std::int64_t key_block = 0;  ///< the kernels' grid of key blocks; under `reproducible` it depends on seq_len alone
  bool overlaps_io = false;    ///< the next shard or block is read, and the last one written, while one computes
  std::int64_t context_block = 0;  ///< tokens of the context that are met at once; 0: there is none
  std::vector<LayerShape> layers;
  std::vector<ShardPlan> shards;  ///< in the order they are worked through
  std::vector<BlockPlan> blocks;  ///< behind the shards, one after the other
  MemoryPlan memory;
  std::size_t memory_limit_bytes = 0;

  std::int64_t pairs() const;
  double flops() const;
  std::size_t moved_bytes() const;
};

/// What a plan depends on beside the configuration and the input's shapes.
struct PlanResources {
  int world_size = 1;
  std::size_t memory_limit_bytes = 0;
  bool supports_io_thread = false;
  bool carries_device = false;  ///< the transport carries the kernels' memory in the order of their queue
};

/// Decides layouts, head groups and overlap: as many heads as fit go round together; where even the shards do not fit
/// twice, reading does not overlap computing; where they do not fit once, a layer is read a few heads at a time.
/// @throws Error(kBadInput) where heads are out of range or left out, or not even one KV head fits in memory.
RunPlan make_run_plan(const RunConfig& config, const std::vector<LayerShape>& layers, const PlanResources& resources,
                      const Kernels& kernels);

/// For people: layout, groups, steps, bytes, FLOPs, memory.
std::string describe(const RunPlan& plan);

/// How many accumulators of a query chunk may be open at once: under zigzag an ordered mechanism meets its keys in
/// pieces that are joined later (one being computed, at most three waiting).
constexpr int kOpenPartsZigzagOrdered = 4;

}  // namespace ringscan
