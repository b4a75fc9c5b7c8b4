#include "engine/memory_job.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/ring_task.hpp"
#include "engine/synthetic_activations.hpp"
#include "engine/synthetic_plan.hpp"

namespace ringscan {
namespace {

/// Streams of fill_normal, apart for each rank.
enum Stream { kQ = 100, kK, kV, kDecay };

Buffer normal_buffer(std::size_t count, ElementType type, int rank, Stream stream, MemoryLedger* ledger) {
  std::vector<float> values(std::min(count, kDistinctSyntheticValues));
  fill_normal(0, rank, stream, 0, values);
  if (stream == kDecay) {
    for (float& value : values) value = -0.1f * std::abs(value);
  }
  Buffer buffer(count * size_of(type), ledger);
  for (std::size_t at = 0; at < count; at += values.size()) {
    convert_elements(values.data(), ElementType::kFloat32, buffer.as<std::byte>() + at * size_of(type), type,
                     std::min(values.size(), count - at));
  }
  return buffer;
}

AnyView fill(Buffer& buffer, ElementType type, const Shape4& shape, int rank, Stream stream, MemoryLedger* ledger) {
  buffer = normal_buffer(static_cast<std::size_t>(element_count(shape)), type, rank, stream, ledger);
  return dense_any_view(std::as_const(buffer).data(), type, shape);
}

}  // namespace

ShardInput make_synthetic_input(const RunConfig& config, const LayerShape& layer, const ShardPlan& shard, int rank,
                                MemoryLedger* ledger) {
  const std::int64_t tokens = shard.layout.local_tokens(rank);
  const auto heads = static_cast<std::int64_t>(shard.heads.size());
  const auto kv_heads = static_cast<std::int64_t>(shard.kv_heads.size());
  ShardInput input;
  input.q = fill(input.q_buffer, layer.q_type, {layer.batch, tokens, heads, layer.head_dim}, rank, kQ, ledger);
  input.k = fill(input.k_buffer, layer.kv_type, {layer.batch, tokens, kv_heads, layer.head_dim}, rank, kK, ledger);
  input.v = fill(input.v_buffer, layer.kv_type, {layer.batch, tokens, kv_heads, layer.v_dim}, rank, kV, ledger);
  input.linear.heads = linear_heads_of(config, layer.num_heads, shard.heads);
  const LinearParams* params = linear_params_of(config);
  if (params != nullptr && params->decay == Decay::kToken && !input.linear.heads.empty()) {
    const auto columns = static_cast<std::int64_t>(input.linear.heads.size());
    input.linear.log_decay = fill(input.linear.log_decay_buffer, ElementType::kFloat32,
                                  {layer.batch, tokens, columns, 1}, rank, kDecay, ledger);
  }
  return input;
}

MemoryJob::MemoryJob(const RunConfig& config, const LayerShape& layer, std::size_t memory_bytes, Transport& transport,
                     Kernels& kernels, const SyntheticBlockSizes& sizes)
    : config_(config), transport_(transport), kernels_(kernels) {
  PlanResources resources;
  resources.world_size = transport.world_size();
  resources.memory_limit_bytes = memory_bytes;
  run_collectively(transport, [&] { plan_ = make_synthetic_plan(config, layer, sizes, resources, kernels); });
  for (const ShardPlan& shard : plan_.shards) {
    Shard& made = shards_.emplace_back(Shard{make_synthetic_input(config, layer, shard, transport.rank(), &ledger_),
                                             make_shard_output(plan_, shard, transport.rank(), config, &ledger_),
                                             {},
                                             {}});
    made.near_input = ResidentInput(made.input, kernels.memory());
    made.near_output.emplace(made.output, kernels.memory());
  }
  if (plan_.blocks.empty()) return;
  block_kernels_.emplace(kernels);
  blocks_.resize(plan_.blocks.size());
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    blocks_[i].spec = synthetic_block_spec(config.blocks[i], layer, sizes);
    blocks_[i].inputs =
        make_memory_block(plan_.blocks[i], blocks_[i].spec, config, transport.rank(), *block_kernels_, &ledger_);
  }
}

RingPassResult MemoryJob::run() {
  RingPassResult result;
  reached_by_state_ = 0;
  for (std::size_t i = 0; i < shards_.size(); ++i) run_shard(plan_.shards[i], shards_[i], result);
  for (std::size_t i = 0; i < blocks_.size(); ++i) run_block(plan_.blocks[i], *blocks_[i].inputs, result);
  return result;
}

void MemoryJob::run_shard(const ShardPlan& plan, Shard& shard, RingPassResult& result) {
  const LayerShape& layer = plan_.layers[static_cast<std::size_t>(plan.layer)];
  const ResidentInput& here = shard.near_input;
  const ResidentOutput& out = *shard.near_output;
  for (const PassPlan& pass : plan.passes) {
    for (const HeadGroup& group : pass.groups) {
      const std::vector<HeadSlot> slots = slots_of(plan, layer, group);
      if (carries_state(pass.mechanism)) {
        const LinearGroupTask task{&config_,
                                   &layer,
                                   &plan,
                                   &pass,
                                   &group,
                                   slots,
                                   here.q(),
                                   here.k(),
                                   here.v(),
                                   here.log_decay(),
                                   &shard.input.linear,
                                   out.o(),
                                   &shard.output.states};
        result += run_linear_group(task, transport_, kernels_.linear(), &ledger_, {});
        continue;
      }
      RingPassTask task = ring_task(config_, plan_, plan, pass, slots, here, out, kernels_);
      task.sticks = &sticks_;
      result += run_ring_pass(task, transport_, kernels_, &ledger_);
    }
  }
}

void MemoryJob::run_block(const BlockPlan& plan, MemoryBlock& block, RingPassResult& result) {
  const SsmPassResult pass = block.run(transport_, *block_kernels_, &ledger_);
  result.compute_seconds += pass.compute_seconds;
  result.exposed_seconds += pass.exposed_seconds;
  result.sent_bytes += pass.sent_bytes;
  reached_by_state_ += pass.corrected;
  result.flops += plan.flops * static_cast<double>(plan.layout.local_tokens(transport_.rank())) /
                  static_cast<double>(std::max<std::int64_t>(1, plan.shape.seq_len));
}

}  // namespace ringscan
