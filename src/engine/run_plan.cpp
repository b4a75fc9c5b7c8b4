#include "engine/run_plan.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "comm/ring_schedule.hpp"
#include "comm/scan_schedule.hpp"
#include "core/error.hpp"
#include "core/units.hpp"
#include "engine/context_plan.hpp"
#include "engine/linear_layer.hpp"
#include "engine/memory_plan.hpp"
#include "engine/sparse_pass.hpp"
#include "mechanism/growing_window.hpp"

namespace ringscan {
namespace {

constexpr std::int64_t kKernelTile = 64;
constexpr std::int64_t kKeyBlock = 512;
/// Shards begin on tiles where each run of tokens has at least this many; shorter sequences are dealt out evenly.
constexpr std::int64_t kTilesWorthAligning = 8;

std::int64_t key_block_for(const RunConfig& config, std::int64_t longest_seq_len) {
  if (!config.reproducible) return kKeyBlock;
  // Shards must begin on multiples of the block, for every number of ranks: about 128 blocks in the sequence.
  std::int64_t block = kKernelTile;
  while (block < kKeyBlock && block * 2 * 128 <= longest_seq_len) block *= 2;
  return block;
}

LayoutKind layout_for(const RunConfig& config, const Mechanism& mechanism, int world_size) {
  if (carries_state(mechanism)) return LayoutKind::kContiguous;
  if (config.layout) return *config.layout;
  if (config.reproducible || world_size == 1) return LayoutKind::kContiguous;
  if (const auto* stick = std::get_if<StickBreakingParams>(&mechanism)) {
    return stick->epsilon > 0.0 ? LayoutKind::kContiguous : LayoutKind::kZigzag;
  }
  if (const auto* cog = std::get_if<CogParams>(&mechanism)) {
    return cog->causal ? LayoutKind::kZigzag : LayoutKind::kContiguous;
  }
  if (const auto* sparse = std::get_if<SparseParams>(&mechanism)) {
    return sparse->select == SparseSelect::kTopk ? LayoutKind::kZigzag : LayoutKind::kContiguous;
  }
  const auto& softmax = std::get<SoftmaxParams>(mechanism);
  return softmax.causal && softmax.window == 0 ? LayoutKind::kZigzag : LayoutKind::kContiguous;
}

SequenceLayout make_layout(const RunConfig& config, LayoutKind kind, std::int64_t seq_len, int world_size,
                           std::int64_t key_block) {
  const std::int64_t runs = static_cast<std::int64_t>(world_size) * (kind == LayoutKind::kZigzag ? 2 : 1);
  std::int64_t tile = seq_len >= runs * kKernelTile * kTilesWorthAligning ? kKernelTile : 1;
  if (config.reproducible) tile = key_block;
  return SequenceLayout(kind, seq_len, world_size, tile);
}

std::string layer_label(const LayerShape& layer) {
  return layer.name.empty() ? "the input" : "layer " + layer.name;
}

/// The assignments with explicit heads; checks that each head of the layer is given once.
std::vector<HeadAssignment> resolve_heads(const RunConfig& config, const LayerShape& layer) {
  std::vector<HeadAssignment> assignments = config.assignments;
  std::vector<int> times_given(static_cast<std::size_t>(layer.num_heads), 0);
  const auto give = [&](std::string_view mechanism, int head) {
    if (head < 0 || head >= layer.num_heads) {
      throw bad_input("heads." + std::string(mechanism) + ": head " + std::to_string(head) +
                      " does not exist: " + layer_label(layer) + " has heads 0-" + std::to_string(layer.num_heads - 1));
    }
    if (++times_given[static_cast<std::size_t>(head)] > 1) {
      throw bad_input("head " + std::to_string(head) + " is given to two mechanisms");
    }
  };
  for (HeadAssignment& assignment : assignments) {
    if (assignment.heads.empty()) {
      assignment.heads.resize(static_cast<std::size_t>(layer.num_heads));
      std::iota(assignment.heads.begin(), assignment.heads.end(), 0);
    }
    std::sort(assignment.heads.begin(), assignment.heads.end());
    for (const int head : assignment.heads) give(name_of(assignment.mechanism), head);
  }
  for (const BlockAssignment& block : config.blocks) {
    for (const int head : block.heads) give(name_of(block.mechanism), head);
  }
  const auto left_out = std::find(times_given.begin(), times_given.end(), 0);
  if (left_out != times_given.end()) {
    throw bad_input("head " + std::to_string(left_out - times_given.begin()) + " of " + layer_label(layer) +
                    " is given to no mechanism: heads.<mechanism> must name every head");
  }
  return assignments;
}

/// Cuts heads into groups of at most `kv_heads_a_group` KV heads each.
std::vector<HeadGroup> make_groups(const LayerShape& layer, const std::vector<int>& heads, int kv_heads_a_group) {
  std::vector<HeadGroup> groups;
  for (const int head : heads) {
    const int kv_head = layer.kv_head_of(head);
    const bool known = !groups.empty() && groups.back().kv_heads.back() == kv_head;
    if (!known) {
      if (groups.empty() || static_cast<int>(groups.back().kv_heads.size()) == kv_heads_a_group) groups.emplace_back();
      groups.back().kv_heads.push_back(kv_head);
    }
    groups.back().heads.push_back(head);
  }
  return groups;
}

/// One way of the keys round the ring.
struct Journey {
  int steps = 0;
  std::int64_t moved_tokens = 0;  ///< over all ranks
};

Journey measure_journey(const SequenceLayout& layout, const Band& band, const Reach& reach) {
  const RingRoutes routes(layout, band, reach);
  return {routes.steps(), routes.moved_tokens()};
}

std::int64_t count_heads(const PassPlan& pass) {
  return std::accumulate(
      pass.groups.begin(), pass.groups.end(), std::int64_t{0},
      [](std::int64_t sum, const HeadGroup& g) { return sum + static_cast<std::int64_t>(g.heads.size()); });
}

/// measure_pass() for a mechanism that carries a state.
void measure_scan(const RunConfig& config, PassPlan& pass, const LayerShape& layer, const SequenceLayout& layout,
                  bool carries_device, const Kernels& kernels) {
  const auto& params = std::get<LinearParams>(pass.mechanism);
  const std::int64_t heads = count_heads(pass);
  const auto rows = static_cast<double>(layer.batch * layer.seq_len) * static_cast<double>(heads);
  pass.scale = config.linear_scale.value_or(pass.scale);
  pass.flops = linear_output_flops(rows, static_cast<double>(layer.head_dim), static_cast<double>(layer.v_dim));
  pass.state_bytes = kernels.linear().state_bytes(state_shape(params, layer));
  const auto participants = static_cast<int>(scan_participants(layout).size());
  for (const HeadGroup& group : pass.groups) {
    const std::size_t together = std::min(group.heads.size(), kernels.linear().slots_a_state());
    const ScanKind kind =
        linear_scan_kind(config.reproducible, carries_device, participants, together * pass.state_bytes);
    std::int64_t messages = 0;
    for (const ScanSchedule& schedule : make_scan_schedules(kind, layout)) {
      pass.ring_steps = std::max(pass.ring_steps, static_cast<int>(schedule.size()));
      messages += std::count_if(schedule.begin(), schedule.end(), [](const ScanStep& s) { return s.send_to >= 0; });
    }
    pass.moved_bytes += static_cast<std::size_t>(messages) * group.heads.size() * pass.state_bytes;
  }
}

/// Fills in what follows from a pass's heads, groups and layout.
void measure_pass(const RunConfig& config, PassPlan& pass, const LayerShape& layer, const SequenceLayout& layout,
                  bool carries_device, const Kernels& kernels) {
  if (carries_state(pass.mechanism)) return measure_scan(config, pass, layer, layout, carries_device, kernels);
  const Band band = band_of(pass.mechanism);
  const std::int64_t heads = count_heads(pass);
  const std::int64_t kv_heads = std::accumulate(
      pass.groups.begin(), pass.groups.end(), std::int64_t{0},
      [](std::int64_t sum, const HeadGroup& g) { return sum + static_cast<std::int64_t>(g.kv_heads.size()); });
  const TokenRun own = layer.own_tokens();
  pass.pairs = count_pairs(band, own, {0, own.end}) * heads * layer.batch;
  std::int64_t first_delta = band.max_delta;  // the farthest key of the first token
  pass.flops = 2.0 * static_cast<double>(layer.head_dim + layer.v_dim) * static_cast<double>(pass.pairs);
  Reach reach;
  std::int64_t key_journeys = 0;
  if (const auto* sparse = std::get_if<SparseParams>(&pass.mechanism)) {
    const GrowingWindow window(*sparse, own.end);
    const std::int64_t kept = window.count_kept(own) * heads * layer.batch;
    if (sparse->select == SparseSelect::kWindow) {
      pass.pairs = kept;
      reach = [window, own](std::int64_t query) { return window.reach(own.begin + query); };
      first_delta = window.reach(own.begin);
      key_journeys = config.want_kept_mass ? 1 : 0;
    } else {
      key_journeys = kTypicalSearchRounds;
    }
    pass.flops = 2.0 * static_cast<double>(layer.head_dim) * static_cast<double>(pass.pairs) +
                 2.0 * static_cast<double>(layer.v_dim) * static_cast<double>(kept);
  }
  const Journey journey = measure_journey(layout, band, reach);
  pass.ring_steps = journey.steps;
  const auto moved_rows = [&](std::int64_t tokens) {
    return static_cast<std::size_t>(tokens * kv_heads * layer.batch);
  };
  pass.moved_bytes = moved_rows(journey.moved_tokens) * kv_token_bytes(layer);
  measure_context(pass, layer, kv_heads, first_delta, key_journeys);
  if (key_journeys == 0) return;
  const Journey whole = measure_journey(layout, band, {});
  pass.ring_steps += whole.steps * static_cast<int>(key_journeys);
  pass.moved_bytes +=
      moved_rows(whole.moved_tokens * key_journeys) * static_cast<std::size_t>(layer.head_dim) * size_of(layer.kv_type);
}

/// How finely work is cut: KV heads that go round together, and KV heads that are read together (0: all).
struct Cut {
  int kv_heads_a_group = 1;
  int kv_heads_a_shard = 0;
  bool overlaps_io = false;
};

std::vector<ShardPlan> make_shards(const RunConfig& config, const std::vector<LayerShape>& layers, int world_size,
                                   std::int64_t key_block, const Cut& cut) {
  std::vector<ShardPlan> shards;
  for (std::size_t index = 0; index < layers.size(); ++index) {
    const LayerShape& layer = layers[index];
    const auto assignments = resolve_heads(config, layer);
    for (const LayoutKind kind : {LayoutKind::kContiguous, LayoutKind::kZigzag}) {
      std::vector<int> heads_here;
      for (const HeadAssignment& assignment : assignments) {
        if (layout_for(config, assignment.mechanism, world_size) != kind) continue;
        heads_here.insert(heads_here.end(), assignment.heads.begin(), assignment.heads.end());
      }
      if (heads_here.empty()) continue;
      std::sort(heads_here.begin(), heads_here.end());
      const int a_shard = cut.kv_heads_a_shard > 0 ? cut.kv_heads_a_shard : layer.num_kv_heads;
      for (const HeadGroup& part : make_groups(layer, heads_here, a_shard)) {
        ShardPlan shard{static_cast<int>(index),
                        make_layout(config, kind, layer.seq_len, world_size, key_block),
                        part.heads,
                        part.kv_heads,
                        {}};
        for (const HeadAssignment& assignment : assignments) {
          if (layout_for(config, assignment.mechanism, world_size) != kind) continue;
          std::vector<int> heads;
          std::set_intersection(assignment.heads.begin(), assignment.heads.end(), part.heads.begin(), part.heads.end(),
                                std::back_inserter(heads));
          if (heads.empty()) continue;
          PassPlan pass;
          pass.mechanism = assignment.mechanism;
          pass.scale = config.scale.value_or(1.0 / std::sqrt(static_cast<double>(layer.head_dim)));
          pass.groups = make_groups(layer, heads, cut.kv_heads_a_group);
          shard.passes.push_back(std::move(pass));
        }
        shards.push_back(std::move(shard));
      }
    }
  }
  return shards;
}

int most_kv_heads(const std::vector<LayerShape>& layers) {
  int most = 1;
  for (const LayerShape& layer : layers) most = std::max(most, layer.num_kv_heads);
  return most;
}

/// Ways to cut the work, the one that moves data least often first.
std::vector<Cut> candidate_cuts(const RunConfig& config, const std::vector<LayerShape>& layers,
                                bool supports_io_thread) {
  std::vector<Cut> cuts;
  const int all = most_kv_heads(layers);
  const int most = config.kv_heads_at_once > 0 ? std::min(config.kv_heads_at_once, all) : all;
  for (const bool overlaps_io : {true, false}) {
    if (overlaps_io && !supports_io_thread) continue;
    for (int group = most; group >= 1; --group) cuts.push_back({group, 0, overlaps_io});
  }
  for (int shard = all - 1; shard >= 1; --shard) cuts.push_back({std::min(shard, most), shard, false});
  return cuts;
}

}  // namespace

int place_of(const std::vector<int>& heads, int head) {
  return static_cast<int>(std::lower_bound(heads.begin(), heads.end(), head) - heads.begin());
}

std::vector<HeadSlot> slots_of(const ShardPlan& shard, const LayerShape& layer, const HeadGroup& group) {
  std::vector<HeadSlot> slots;
  for (const int head : group.heads) {
    slots.push_back({place_of(shard.heads, head), place_of(shard.kv_heads, layer.kv_head_of(head))});
  }
  return slots;
}

RunPlan make_run_plan(const RunConfig& config, const std::vector<LayerShape>& layers, const PlanResources& resources,
                      const Kernels& kernels) {
  RunPlan plan;
  plan.world_size = resources.world_size;
  plan.layers = layers;
  plan.memory_limit_bytes = resources.memory_limit_bytes;
  std::int64_t longest = 0;
  for (const LayerShape& layer : layers) {
    longest = std::max(longest, layer.seq_len);
    check_head_decays(config, layer);
  }
  plan.key_block = key_block_for(config, longest);

  const bool has_context =
      std::any_of(layers.begin(), layers.end(), [](const LayerShape& layer) { return !layer.context.empty(); });
  bool fits = false;
  for (const Cut& cut : candidate_cuts(config, layers, resources.supports_io_thread)) {
    plan.shards = make_shards(config, layers, resources.world_size, plan.key_block, cut);
    for (ShardPlan& shard : plan.shards) {
      const LayerShape& layer = layers[static_cast<std::size_t>(shard.layer)];
      for (PassPlan& pass : shard.passes)
        measure_pass(config, pass, layer, shard.layout, resources.carries_device, kernels);
    }
    const bool overlaps_shards = cut.overlaps_io && plan.shards.size() > 1;
    plan.memory = plan_memory(config, layers, plan.shards, overlaps_shards, plan.key_block, kernels);
    plan.overlaps_io = overlaps_shards || (cut.overlaps_io && has_context);
    plan_context(plan);
    fits = plan.memory.total() <= resources.memory_limit_bytes;
    if (fits) break;
  }
  if (!fits) {
    throw bad_input("memory: one KV head at a time takes " + human_bytes(plan.memory.total()) +
                    " a rank, and a rank has " + human_bytes(resources.memory_limit_bytes) +
                    ": use more ranks, or give a larger --memory");
  }
  return plan;
}

std::int64_t RunPlan::pairs() const {
  std::int64_t sum = 0;
  for (const ShardPlan& shard : shards) {
    for (const PassPlan& pass : shard.passes) sum += pass.pairs;
  }
  return sum;
}

double RunPlan::flops() const {
  double sum = 0.0;
  for (const ShardPlan& shard : shards) {
    for (const PassPlan& pass : shard.passes) sum += pass.flops;
  }
  for (const BlockPlan& block : blocks) sum += block.flops;
  return sum;
}

std::size_t RunPlan::moved_bytes() const {
  std::size_t sum = 0;
  for (const ShardPlan& shard : shards) {
    for (const PassPlan& pass : shard.passes) sum += pass.moved_bytes;
  }
  return sum;
}

}  // namespace ringscan
