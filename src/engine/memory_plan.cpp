#include "engine/memory_plan.hpp"

#include <algorithm>

#include "engine/linear_layer.hpp"

namespace ringscan {
namespace {

std::size_t partial_bytes(const PassPlan& pass, const HeadGroup& group, const LayerShape& layer,
                          const SequenceLayout& layout, const Kernels& kernels) {
  std::size_t most = 0;
  for (int rank = 0; rank < layout.world_size(); ++rank) {
    std::size_t bytes = 0;
    const auto chunks = layout.chunks(rank);
    for (std::size_t chunk = 0; chunk < chunks.size(); ++chunk) {
      const PartialShape shape{layer.batch, chunks[chunk].run.size(), static_cast<std::int64_t>(group.heads.size()),
                               layer.v_dim};
      // Under zigzag the early chunk of an ordered mechanism, and the last rank's only one, meet keys near first, in
      // one walk.
      const bool in_pieces = is_ordered(pass.mechanism) && chunk == 1;
      // How many keys each row keeps, and how far it reaches back.
      if (std::holds_alternative<SparseParams>(pass.mechanism)) {
        bytes += 2 * sizeof(std::int64_t) * static_cast<std::size_t>(shape.rows);
      }
      bytes += kernels.block_bytes(pass.mechanism, shape) *
               static_cast<std::size_t>(in_pieces ? kOpenPartsZigzagOrdered : 1);
    }
    most = std::max(most, bytes);
  }
  return most;
}

/// What a scan holds: its heads' states, and the kernels' scratch.
void add_scan_memory(const RunConfig& config, const PassPlan& pass, const HeadGroup& group, const LayerShape& layer,
                     const Kernels& kernels, MemoryPlan& memory) {
  const std::size_t heads = group.heads.size();
  const std::size_t states =
      linear_pass_states(heads, config.reproducible) + (config.initial_state.empty() ? 0 : heads);
  LinearShape shape = state_shape(std::get<LinearParams>(pass.mechanism), layer);
  const std::size_t received = kernels.memory().is_host() ? 0 : kMostDirectBytes;
  memory.partial_bytes = std::max(memory.partial_bytes, states * kernels.linear().state_bytes(shape) + received);
  shape.slots = static_cast<std::int64_t>(heads);
  memory.scratch_bytes = std::max(memory.scratch_bytes, kernels.linear().linear_scratch_bytes(shape));
}

}  // namespace

std::size_t kv_token_bytes(const LayerShape& layer) {
  return static_cast<std::size_t>(layer.head_dim + layer.v_dim) * size_of(layer.kv_type);
}

LinearShape state_shape(const LinearParams& params, const LayerShape& layer) {
  return {layer.batch, 1, layer.head_dim, layer.v_dim, params.normalizer == Normalizer::kZ};
}

MemoryPlan plan_memory(const RunConfig& config, const std::vector<LayerShape>& layers,
                       const std::vector<ShardPlan>& shards, bool overlaps_io, std::int64_t key_block,
                       const Kernels& kernels) {
  MemoryPlan memory;
  for (const ShardPlan& shard : shards) {
    const LayerShape& layer = layers[static_cast<std::size_t>(shard.layer)];
    const auto rows = static_cast<std::size_t>(layer.batch * shard.layout.max_local_tokens());
    const std::size_t q_bytes = shard.heads.size() * static_cast<std::size_t>(layer.head_dim) * size_of(layer.q_type);
    const std::size_t kv_bytes = shard.kv_heads.size() * kv_token_bytes(layer);
    const std::size_t statistics =
        static_cast<std::size_t>(config.want_lse + config.want_remainder + config.want_kept_mass) * sizeof(float);
    const std::size_t o_bytes =
        shard.heads.size() * (static_cast<std::size_t>(layer.v_dim) * size_of(layer.o_type) + statistics);
    const std::size_t linear_bytes = linear_io_bytes(config, layer, shard, shard.layout.max_local_tokens());
    memory.input_bytes = std::max(memory.input_bytes, rows * (q_bytes + kv_bytes) + linear_bytes);
    memory.output_bytes = std::max(memory.output_bytes, rows * o_bytes);
    const std::size_t staging =
        rows * std::max(shard.heads.size() * static_cast<std::size_t>(layer.head_dim) * layer.q_staging,
                        shard.kv_heads.size() * static_cast<std::size_t>(std::max(layer.head_dim, layer.v_dim)) *
                            layer.kv_staging);
    for (const PassPlan& pass : shard.passes) {
      memory.scratch_bytes =
          std::max(memory.scratch_bytes, kernels.scratch_bytes(layer.head_dim, layer.v_dim, key_block) + staging);
      for (const HeadGroup& group : pass.groups) {
        if (carries_state(pass.mechanism)) {
          add_scan_memory(config, pass, group, layer, kernels, memory);
          continue;
        }
        const std::size_t travels = pass.moved_bytes > 0 ? 2 : 0;
        memory.kv_bytes = std::max(memory.kv_bytes, travels * rows * group.kv_heads.size() * kv_token_bytes(layer));
        memory.partial_bytes = std::max(memory.partial_bytes, partial_bytes(pass, group, layer, shard.layout, kernels));
      }
    }
  }
  if (overlaps_io) {
    memory.input_bytes *= 2;
    memory.output_bytes *= 2;
  }
  return memory;
}

}  // namespace ringscan
