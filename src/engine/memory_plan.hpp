#pragma once
// What a plan's shards take of memory.

#include <cstddef>
#include <vector>

#include "engine/run_plan.hpp"
#include "kernels/linear_kernels.hpp"

namespace ringscan {

/// KV bytes of one token and one KV head.
std::size_t kv_token_bytes(const LayerShape& layer);
/// One head's state.
LinearShape state_shape(const LinearParams& params, const LayerShape& layer);

/// The most of any shard and head group, the context's blocks left out.
MemoryPlan plan_memory(const RunConfig& config, const std::vector<LayerShape>& layers,
                       const std::vector<ShardPlan>& shards, bool overlaps_io, std::int64_t key_block,
                       const Kernels& kernels);

}  // namespace ringscan
