#include "engine/context_plan.hpp"

#include <algorithm>
#include <numeric>

namespace ringscan {
namespace {

/// Tokens of the context that are read and met at once, where there is room for them. A multiple of every key block.
constexpr std::int64_t kContextBlock = 8192;

/// Bytes in memory of `width` elements a KV head for the context's last `tokens`.
std::size_t context_bytes(const LayerShape& layer, std::int64_t tokens, std::int64_t width) {
  std::size_t bytes = 0;
  for (auto part = layer.context.rbegin(); part != layer.context.rend() && tokens > 0; ++part) {
    const std::int64_t here = std::min(tokens, part->tokens);
    bytes += static_cast<std::size_t>(here * width * layer.batch) * size_of(part->kv_type);
    tokens -= here;
  }
  return bytes;
}

/// Bytes that a token of the context takes for each KV head, conversion included.
std::size_t token_bytes(const LayerShape& layer) {
  std::size_t most = 0;
  for (const ContextPart& part : layer.context) {
    const std::int64_t kept = (layer.head_dim + layer.v_dim) * static_cast<std::int64_t>(size_of(part.kv_type));
    const std::int64_t staged = std::max(layer.head_dim, layer.v_dim) * static_cast<std::int64_t>(part.staging);
    most = std::max(most, static_cast<std::size_t>(layer.batch * (kept + staged)));
  }
  return most;
}

/// That meet the context together.
std::size_t most_kv_heads(const ShardPlan& shard) {
  std::size_t most = 0;
  for (const PassPlan& pass : shard.passes) {
    if (carries_state(pass.mechanism)) continue;
    for (const HeadGroup& group : pass.groups) most = std::max(most, group.kv_heads.size());
  }
  return most;
}

}  // namespace

std::int64_t LayerShape::context_tokens() const {
  return std::accumulate(context.begin(), context.end(), std::int64_t{0},
                         [](std::int64_t sum, const ContextPart& part) { return sum + part.tokens; });
}

void measure_context(PassPlan& pass, const LayerShape& layer, std::int64_t kv_heads, std::int64_t first_delta,
                     std::int64_t key_journeys) {
  const auto* sparse = std::get_if<SparseParams>(&pass.mechanism);
  const bool searches = sparse != nullptr && sparse->select == SparseSelect::kTopk;
  const std::int64_t both = layer.head_dim + layer.v_dim;
  pass.context_tokens = std::min(first_delta, layer.context_tokens());
  pass.context_bytes = static_cast<std::size_t>(kv_heads) *
                       (context_bytes(layer, pass.context_tokens, both) +
                        static_cast<std::size_t>(key_journeys) *
                            context_bytes(layer, layer.context_tokens(), searches ? layer.head_dim : both));
}

void plan_context(RunPlan& plan) {
  plan.context_block = 0;
  std::size_t most_bytes = 0;  // of a token
  std::int64_t longest = 0;
  for (const ShardPlan& shard : plan.shards) {
    const LayerShape& layer = plan.layers[static_cast<std::size_t>(shard.layer)];
    longest = std::max(longest, layer.context_tokens());
    most_bytes = std::max(most_bytes, most_kv_heads(shard) * token_bytes(layer));
  }
  if (longest == 0 || most_bytes == 0) return;
  if (plan.overlaps_io) most_bytes *= 2;
  const std::size_t taken = plan.memory.total();
  const std::size_t room = plan.memory_limit_bytes > taken ? plan.memory_limit_bytes - taken : 0;
  const std::int64_t most = std::min({kContextBlock, ceil_div(longest, plan.key_block) * plan.key_block,
                                      static_cast<std::int64_t>(room / most_bytes)});
  plan.context_block = std::max<std::int64_t>(1, most / plan.key_block) * plan.key_block;
  plan.memory.context_bytes = static_cast<std::size_t>(plan.context_block) * most_bytes;
}

}  // namespace ringscan
