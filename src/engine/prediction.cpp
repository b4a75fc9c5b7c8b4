#include "engine/prediction.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/error.hpp"
#include "engine/linear_layer.hpp"
#include "engine/memory_plan.hpp"
#include "engine/simulate_block.hpp"
#include "engine/simulate_ring.hpp"
#include "engine/simulate_scan.hpp"
#include "engine/sparse_pass.hpp"
#include "kernels/linear_kernels.hpp"

namespace ringscan {
namespace {

double sum_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

double most_of(const std::vector<double>& values) {
  return *std::max_element(values.begin(), values.end());
}

/// Adds `times` what lies between two states of the same ranks.
void extrapolate(SimulatedRanks& ranks, const SimulatedRanks& before, double times) {
  const auto add = [&](double& now, double then) { now += times * (now - then); };
  for (std::size_t rank = 0; rank < ranks.clock.size(); ++rank) {
    add(ranks.clock[rank], before.clock[rank]);
    add(ranks.compute[rank], before.compute[rank]);
    add(ranks.exposed[rank], before.exposed[rank]);
    add(ranks.finish[rank], before.finish[rank]);
    Chain& now = ranks.chain[rank];
    const Chain& then = before.chain[rank];
    for (double Chain::*part : {&Chain::compute, &Chain::inside, &Chain::between, &Chain::agree, &Chain::finish}) {
      add(now.*part, then.*part);
    }
    now.hops += static_cast<int>(times) * (now.hops - then.hops);
  }
  add(ranks.pairs, before.pairs);
  add(ranks.useful_seconds, before.useful_seconds);
  add(ranks.work_seconds, before.work_seconds);
  add(ranks.inside_bytes, before.inside_bytes);
  add(ranks.between_bytes, before.between_bytes);
  ranks.steps_taken += static_cast<int>(times) * (ranks.steps_taken - before.steps_taken);
  ranks.steps_saved += static_cast<int>(times) * (ranks.steps_saved - before.steps_saved);
}

class Predictor {
 public:
  explicit Predictor(const PredictionRequest& request)
      : request_(request), plan_(*request.plan), ranks_(request.shape) {}

  Prediction run() {
    for (const ShardPlan& shard : plan_.shards) work_through(shard);
    if (plan_.overlaps_io) result_.write_seconds += std::max(0.0, written_ - now());
    for (const BlockPlan& block : plan_.blocks) work_through(block);
    summarize();
    return result_;
  }

 private:
  double now() const { return ranks_.latest() + result_.read_seconds + result_.write_seconds; }
  const LayerShape& layer_of(const ShardPlan& shard) const {
    return plan_.layers[static_cast<std::size_t>(shard.layer)];
  }

  /// Reading, computing, writing; overlapped with those of other shards where the plan says so.
  void work_through(const ShardPlan& shard) {
    const LayerShape& layer = layer_of(shard);
    const CostProfile& profile = *request_.profile;
    const auto rows = static_cast<double>(layer.batch * layer.seq_len);
    const auto heads = static_cast<double>(shard.heads.size());
    const double read =
        rows * (heads * static_cast<double>(layer.head_dim) * static_cast<double>(size_of(layer.q_type)) +
                static_cast<double>(shard.kv_heads.size() * kv_token_bytes(layer)));
    const double written = rows * heads * static_cast<double>(layer.v_dim) * static_cast<double>(size_of(layer.o_type));
    const double read_seconds = profile.read_bytes_per_second > 0.0 ? read / profile.read_bytes_per_second : 0.0;
    const double write_seconds = profile.write_bytes_per_second > 0.0 ? written / profile.write_bytes_per_second : 0.0;
    // One queue reads and writes.
    if (plan_.overlaps_io) {
      queue_free_ = std::max(queue_free_, 0.0) + read_seconds;
      result_.read_seconds += std::max(0.0, queue_free_ - now());
    } else {
      result_.read_seconds += read_seconds;
    }
    for (const PassPlan& pass : shard.passes) simulate_pass(shard, pass);
    if (plan_.overlaps_io) {
      queue_free_ = std::max(queue_free_, now()) + write_seconds;
      written_ = queue_free_;
    } else {
      result_.write_seconds += write_seconds;
    }
  }

  /// Reading, computing, writing, one after the other.
  void work_through(const BlockPlan& block) {
    const BlockShape& shape = block.shape;
    const CostProfile& profile = *request_.profile;
    const BlockBytes bytes = file_bytes(shape);
    if (profile.read_bytes_per_second > 0.0) result_.read_seconds += bytes.read / profile.read_bytes_per_second;
    if (profile.write_bytes_per_second > 0.0) result_.write_seconds += bytes.written / profile.write_bytes_per_second;
    const bool is_chela = std::holds_alternative<ChelaParams>(shape.mechanism);
    const auto cost_of = [&](int at_once) -> const BlockCost& {
      return profile.block(name_of(shape.mechanism), shape.input_type, shape.channels, is_chela ? 0 : shape.d_state,
                           is_chela ? shape.chela.shape.long_width : 0, at_once);
    };
    SimulatedBlock simulated;
    simulated.plan = &block;
    simulated.cost = cost_of(request_.shape.at_once());
    simulated.heads_a_state = profile.linear_heads_a_state;
    simulated.by_device = profile.sends_from_shard;
    simulated.reproducible = request_.config->reproducible;
    const double before = ranks_.useful_seconds;
    simulate_block(simulated, ranks_);
    const double slower = cost_of(1).token.row_seconds / simulated.cost.token.row_seconds;
    if (slower < 1.0) crowding_seconds_ += (ranks_.useful_seconds - before) * (1.0 - slower);
    result_.flops += block.flops;
  }

  void simulate_pass(const ShardPlan& shard, const PassPlan& pass) {
    for (std::size_t first = 0; first < pass.groups.size();) {
      std::size_t end = first + 1;
      while (end < pass.groups.size() && are_alike(pass.groups[first], pass.groups[end])) ++end;
      const std::size_t walked = std::min(end - first, static_cast<std::size_t>(std::max(1, request_.groups_walked)));
      SimulatedRanks before = ranks_;
      for (std::size_t i = 0; i < walked; ++i) {
        if (i + 1 == walked) before = ranks_;
        simulate_group(shard, pass, pass.groups[first]);
      }
      if (end - first > walked) extrapolate(ranks_, before, static_cast<double>(end - first - walked));
      first = end;
    }
  }

  static bool are_alike(const HeadGroup& a, const HeadGroup& b) {
    return a.heads.size() == b.heads.size() && a.kv_heads.size() == b.kv_heads.size();
  }

  void simulate_group(const ShardPlan& shard, const PassPlan& pass, const HeadGroup& group) {
    const LayerShape& layer = layer_of(shard);
    const KernelCost& cost = request_.profile->kernel(profile_name_of(pass.mechanism), layer.kv_type, layer.head_dim,
                                                      request_.shape.at_once());
    const KernelCost& alone =
        request_.profile->kernel(profile_name_of(pass.mechanism), layer.kv_type, layer.head_dim, 1);
    const double before = ranks_.useful_seconds;
    double slower = alone.pair_seconds / cost.pair_seconds;
    if (carries_state(pass.mechanism)) {
      slower = alone.row_seconds / cost.row_seconds;
      simulate_heads(shard, pass, group, cost);
    } else {
      simulate_keys(shard, pass, group, cost);
    }
    if (slower < 1.0) crowding_seconds_ += (ranks_.useful_seconds - before) * (1.0 - slower);
  }

  void simulate_heads(const ShardPlan& shard, const PassPlan& pass, const HeadGroup& group, const KernelCost& cost) {
    const LayerShape& layer = layer_of(shard);
    SimulatedLinear linear;
    linear.layout = &shard.layout;
    linear.heads = static_cast<int>(group.heads.size());
    linear.batch = static_cast<double>(layer.batch);
    linear.state_bytes = static_cast<double>(pass.state_bytes);
    linear.heads_a_state = request_.profile->linear_heads_a_state;
    linear.keeps_summaries = request_.profile->linear_keeps_summaries;
    const auto together = static_cast<double>(std::min(linear.heads, linear.heads_a_state));
    // A transport that sends keys from where they lie on a device carries states there, too.
    linear.kind = linear_scan_kind(request_.config->reproducible, request_.profile->sends_from_shard,
                                   static_cast<int>(scan_participants(shard.layout).size()),
                                   static_cast<std::size_t>(together * linear.state_bytes));
    linear.cost = cost;
    simulate_linear(linear, ranks_);
    result_.flops += linear_output_flops(static_cast<double>(layer.batch * layer.seq_len) * linear.heads,
                                         static_cast<double>(layer.head_dim), static_cast<double>(layer.v_dim));
  }

  void simulate_keys(const ShardPlan& shard, const PassPlan& pass, const HeadGroup& group, const KernelCost& cost) {
    const LayerShape& layer = layer_of(shard);
    const double element = static_cast<double>(layer.batch) * static_cast<double>(size_of(layer.kv_type)) *
                           static_cast<double>(group.kv_heads.size());
    SimulatedRing ring;
    ring.layout = &shard.layout;
    ring.band = band_of(pass.mechanism);
    ring.heads = static_cast<double>(layer.batch) * static_cast<double>(group.heads.size());
    ring.token_bytes = element * static_cast<double>(layer.head_dim + layer.v_dim);
    ring.cost = cost;
    const bool is_sent_in_place = request_.profile->sends_from_shard && group.kv_heads.size() == shard.kv_heads.size();
    const double packed = request_.profile->pack_bytes_per_second;
    ring.pack_bytes_per_second = is_sent_in_place || packed == 0.0 ? HUGE_VAL : packed;
    ring.piece_keys = request_.profile->piece_keys;
    ring.key_block = plan_.key_block;
    const std::optional<ReachModel> sticks = sticks_of(shard, pass);
    if (sticks) ring.sticks = &*sticks;
    const double pairs = ranks_.pairs;
    if (const auto* sparse = std::get_if<SparseParams>(&pass.mechanism)) {
      simulate_sparse(*sparse, ring, layer, element);
    } else {
      simulate_ring(ring, ranks_);
    }
    result_.flops += 2.0 * static_cast<double>(layer.head_dim + layer.v_dim) * (ranks_.pairs - pairs);
  }

  /// Top-k: rounds of keys alone, then keys and values; windows go once.
  void simulate_sparse(const SparseParams& sparse, SimulatedRing ring, const LayerShape& layer, double element) {
    if (sparse.select == SparseSelect::kWindow) {
      ring.reach = reach_of(sparse, layer.seq_len);
      simulate_ring(ring, ranks_);
      return;
    }
    SimulatedRing search = ring;
    search.token_bytes = element * static_cast<double>(layer.head_dim);
    search.pair_share = ring.pair_share = 1.0 / (kTypicalSearchRounds + 1);
    search.finishes = false;
    for (int round = 0; round < kTypicalSearchRounds; ++round) simulate_ring(search, ranks_);
    simulate_ring(ring, ranks_);
  }

  std::optional<ReachModel> sticks_of(const ShardPlan& shard, const PassPlan& pass) const {
    const auto* stick = std::get_if<StickBreakingParams>(&pass.mechanism);
    if (stick == nullptr || stick->epsilon == 0.0 || !request_.reach) return std::nullopt;
    if (shard.layout.kind() != LayoutKind::kContiguous) {
      throw bad_input("early exit is predicted under the contiguous layout alone: leave --layout out");
    }
    return ReachModel(request_.reach->median, request_.reach->percentile_99, request_.profile->exit_tile);
  }

  void summarize() {
    const double computed = ranks_.latest();
    result_.seconds = now();
    result_.compute_seconds = most_of(ranks_.compute);
    result_.exposed_seconds = most_of(ranks_.exposed);
    result_.finish_seconds = most_of(ranks_.finish);
    result_.inside_bytes = ranks_.inside_bytes;
    result_.between_bytes = ranks_.between_bytes;
    result_.steps_taken = ranks_.steps_taken;
    result_.steps_saved = ranks_.steps_saved;
    result_.slowest_rank = ranks_.slowest();
    result_.chain = ranks_.chain[static_cast<std::size_t>(result_.slowest_rank)];
    const double all = std::max(result_.seconds, 1e-30) * ranks_.size();
    const double compute = sum_of(ranks_.compute);
    Prediction::Shares& shares = result_.shares;
    crowding_seconds_ = std::min(crowding_seconds_, ranks_.useful_seconds);
    shares.useful = (ranks_.useful_seconds - crowding_seconds_) / all;
    shares.crowding = crowding_seconds_ / all;
    shares.small = (ranks_.work_seconds - ranks_.useful_seconds) / all;
    shares.sharing = (compute - ranks_.work_seconds) / all;
    shares.exposed = sum_of(ranks_.exposed) / all;
    shares.finish = sum_of(ranks_.finish) / all;
    shares.idle = (computed * ranks_.size() - sum_of(ranks_.clock)) / all;
    shares.files = (result_.read_seconds + result_.write_seconds) * ranks_.size() / all;
    name_what_binds();
  }

  void name_what_binds() {
    const Prediction::Shares& shares = result_.shares;
    const bool is_link = result_.chain.between + result_.chain.inside > 0.0;
    const std::string link =
        result_.chain.between > result_.chain.inside ? "the link between nodes" : "the links inside nodes";
    const std::pair<double, std::string> losses[] = {
        {shares.small, "kernels' cost a call and a row: little work at a time"},
        {shares.crowding, "kernels that slow each other down on a node"},
        {shares.sharing, "processors: more ranks than a node has"},
        {shares.exposed, is_link ? link : "waiting for neighbours with more work"},
        {shares.finish, "packing, rounding and writing rows in memory"},
        {shares.idle, "imbalance: ranks that are done earlier"},
        {shares.files, "files"}};
    const auto most = std::max_element(std::begin(losses), std::end(losses),
                                       [](const auto& a, const auto& b) { return a.first < b.first; });
    result_.binds = shares.useful >= most->first ? "computing" : most->second;
    result_.largest_loss = most->second;
  }

  const PredictionRequest& request_;
  const RunPlan& plan_;
  SimulatedRanks ranks_;
  Prediction result_;
  double crowding_seconds_ = 0.0;  // of the groups walked
  double queue_free_ = 0.0;
  double written_ = 0.0;
};

}  // namespace

Prediction predict(const PredictionRequest& request) {
  return Predictor(request).run();
}

}  // namespace ringscan
