#include "apps/bench_profile.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <memory>
#include <thread>

#include "apps/bench_scaling.hpp"
#include "apps/block_measurement.hpp"
#include "apps/link_measurement.hpp"
#include "apps/measurement.hpp"
#include "apps/scaling_point.hpp"
#include "comm/nccl_transport.hpp"
#include "comm/solo_transport.hpp"
#include "core/stopwatch.hpp"
#include "engine/linear_pass.hpp"
#include "engine/memory_job.hpp"
#include "engine/resident.hpp"
#include "engine/run.hpp"
#include "engine/simulate_ring.hpp"

namespace ringscan {
namespace {

constexpr std::int64_t kMostElements = std::int64_t{1} << 26;  // of q, that are made for a measurement of their own
constexpr std::int64_t kMostTurns = 16;                        // of inputs of one length

/// Figures of one kind at one point; medians over the repetitions of the slowest rank's.
struct PassFigures {
  double compute = 0.0;
  double rest = 0.0;  ///< of the whole, beside computing
  AttendStats stats;
};

class ProfileBench {
 public:
  ProfileBench(Job& job, const BenchOptions& options) : job_(job), options_(options) {
    RunContext context;
    context.transport = &job.transport;
    context.ranks_on_node = job.ranks_on_node;
    context.rank_on_node = job.rank_on_node;
    kernels_ = make_kernels(options.backend, context);
    device_transport_ = make_device_transport(*kernels_, context, RunConfig().hop_limit_seconds);
    memory_bytes_ = memory_a_rank(job, *kernels_);
    const bool is_cuda = kernels_->name() == "cuda";
    const int processors = static_cast<int>(std::thread::hardware_concurrency());
    profile_.backend = kernels_->name();
    profile_.device = kernels_->device();
    profile_.cores = is_cuda ? job.ranks_on_node : processors;
    profile_.piece_keys = kernels_->piece_keys();
    // One rank has no way to others, but a job of more would have NCCL's.
    const bool is_alone = job.transport.world_size() == 1;
    profile_.sends_from_shard =
        !kernels_->memory().is_host() && (is_alone ? has_nccl() : transport().carries(kernels_->memory()));
    profile_.linear_heads_a_state = static_cast<int>(std::min<std::size_t>(kernels_->linear().slots_a_state(), 65536));
    profile_.linear_keeps_summaries = kernels_->linear().keeps_summaries();
    profile_.memory_bytes = static_cast<double>(memory_bytes_);
    // More ranks than processors would measure how these are shared.
    most_ = is_cuda ? job.transport.world_size() : std::min(job.transport.world_size(), processors);
  }

  CostProfile run() {
    say("backend %s, %s; %d ranks at once\n\n%-16s %8s %8s %12s %12s %14s %12s %9s\n", profile_.backend.c_str(),
        profile_.device.c_str(), most_, "mechanism", "head_dim", "at once", "us a call", "ns a row", "GFLOP/s",
        "finish ns", "worst fit");
    // GPUs do not slow each other down.
    const bool is_shared = most_ > 1 && profile_.backend != "cuda";
    for (const int at_once : is_shared ? std::vector<int>{1, most_} : std::vector<int>{most_}) {
      const std::unique_ptr<Transport> part = job_.transport.first_ranks(at_once);
      for (const std::string& mechanism : options_.mechanisms) {
        for (const std::int64_t head_dim : options_.head_dims) {
          if (part == nullptr) continue;
          if (is_block_name(mechanism)) {
            note_block(measure_block(*part, *kernels_, options_, mechanism, head_dim, memory_bytes_,
                                     profile_.sends_from_shard));
          } else {
            measure_kernel(*part, at_once, mechanism, head_dim);
          }
        }
      }
      release_idle(job_.transport, at_once);
    }
    measure_links();
    share_profile();
    return profile_;
  }

 private:
  /// What a run's passes move keys and states by.
  Transport& transport() { return device_transport_ ? *device_transport_ : job_.transport; }

  template <typename... Arguments>
  void say(const char* format, Arguments... arguments) const {
    if (!job_.is_root()) return;
    std::printf(format, arguments...);
    std::fflush(stdout);
  }

  LayerShape layer_of(std::int64_t seq_len, int heads, int kv_heads, std::int64_t head_dim) const {
    LayerShape layer;
    layer.batch = 1;
    layer.seq_len = seq_len;
    layer.num_heads = heads;
    layer.num_kv_heads = kv_heads;
    layer.head_dim = layer.v_dim = head_dim;
    layer.q_type = layer.kv_type = layer.o_type = options_.dtype;
    return layer;
  }

  /// Every rank of `part` does the same for itself.
  PassFigures measure_alone(Transport& part, const std::string& mechanism, const LayerShape& layer) {
    SoloTransport solo;
    const RunConfig config = study_config(mechanism, layer.num_heads, {});
    // Of what takes little for each byte, short inputs take turns: a run meets its tokens once, in no cache.
    std::vector<std::unique_ptr<MemoryJob>> jobs;
    const std::int64_t longest = *std::max_element(options_.seq_lens.begin(), options_.seq_lens.end());
    const std::int64_t turns =
        is_cheap(mechanism) ? std::clamp<std::int64_t>(4 * longest / layer.seq_len, 1, kMostTurns) : 1;
    for (std::int64_t i = 0; i < turns; ++i) {
      jobs.push_back(std::make_unique<MemoryJob>(config, layer, memory_bytes_, solo, *kernels_));
      if (i > 0) jobs.back()->run();
    }
    const Stopwatch warm_up;
    jobs.front()->run();
    const int repeats = repetitions_of(slowest(part, warm_up.seconds()), options_.repeats);
    std::vector<double> compute, rest;
    PassFigures figures;
    for (int repeat = 0; repeat < repeats; ++repeat) {
      part.barrier();
      const Stopwatch watch;
      const RingPassResult result = jobs[static_cast<std::size_t>(repeat % turns)]->run();
      double times[] = {result.compute_seconds, watch.seconds() - result.compute_seconds};
      part.all_reduce(std::span<double>(times), ReduceOp::kMax);
      compute.push_back(times[0]);
      rest.push_back(times[1]);
      figures.stats = result.stats;
    }
    figures.compute = quartiles(compute).median;
    figures.rest = quartiles(rest).median;
    return figures;
  }

  /// Where a mechanism's pairs depend on scores, they are those that were computed.
  KernelPoint point_of(const std::string& mechanism, const LayerShape& layer, const PassFigures& figures) const {
    const auto heads = static_cast<double>(layer.num_heads);
    const auto tokens = static_cast<double>(layer.seq_len);
    if (mechanism == "linear") return {linear_states(), heads * tokens, 0.0, figures.compute};
    const Mechanism of = study_config(mechanism, 1, {}).assignments.front().mechanism;
    const TokenRun all{0, layer.seq_len};
    const KernelPoint work = work_of(band_of(of), reach_of(of, layer.seq_len), all, all, kernels_->piece_keys());
    if (mechanism == "stick-breaking") {
      return {work.calls, heads * tokens, static_cast<double>(figures.stats.pairs), figures.compute};
    }
    return {work.calls, heads * work.rows, heads * work.pairs, figures.compute};
  }

  /// Of all heads: a call each.
  double linear_states() const { return static_cast<double>(ceil_div(options_.heads, profile_.linear_heads_a_state)); }

  /// Work that grows with the tokens alone.
  static bool is_cheap(const std::string& variant) { return variant == "linear" || variant == "stick-breaking"; }

  /// What is cheap may be measured at greater lengths too.
  std::vector<std::int64_t> lengths_of(const std::string& variant) const {
    std::vector<std::int64_t> lengths = options_.seq_lens;
    if (is_cheap(variant)) {
      const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
      if (4 * longest * options_.heads * options_.head_dims.back() <= kMostElements) lengths.push_back(4 * longest);
    }
    return lengths;
  }

  /// Rows and keys of a tile, about: where most tiles are whole.
  void note_exit_tile(const AttendStats& stats) {
    if (stats.tiles_computed == 0) return;
    const double pairs = static_cast<double>(stats.pairs) / static_cast<double>(stats.tiles_computed);
    profile_.exit_tile = std::max(16.0, 16.0 * std::round(std::sqrt(pairs) / 16.0));
  }

  void note_block(const BlockCost& cost) {
    const KernelCost& token = cost.token;
    std::array<char, 32> reach{"all"};
    if (cost.incoming_rows < 1e15) std::snprintf(reach.data(), reach.size(), "%.0f", cost.incoming_rows);
    say("%-16s %8lld %8d %12.2f %12.2f %14s %12.2f %9.3f  a token of all channels; %.0f %% behind the state, which "
        "reaches %s tokens\n",
        token.mechanism.c_str(), static_cast<long long>(token.head_dim), token.at_once, token.call_seconds * 1e6,
        token.row_seconds * 1e9, "", token.finish_row_seconds * 1e9, token.worst_fit, cost.behind * 100.0,
        reach.data());
    profile_.blocks.push_back(cost);
  }

  static void sort(std::vector<SizeCorrection>& corrections) {
    std::sort(corrections.begin(), corrections.end(),
              [](const SizeCorrection& a, const SizeCorrection& b) { return a.call_seconds < b.call_seconds; });
  }

  void measure_kernel(Transport& part, int at_once, const std::string& mechanism, std::int64_t head_dim) {
    // One kernel does both, with early exit and without: its cost is fitted to both.
    std::vector<std::string> variants{mechanism};
    if (mechanism == "stick-breaking") variants.push_back("stick-dense");
    std::vector<KernelPoint> points, rests;
    KernelCost cost;
    cost.mechanism = mechanism;
    cost.dtype = options_.dtype;
    cost.head_dim = head_dim;
    cost.at_once = at_once;
    std::vector<bool> exits;
    for (const std::string& variant : variants) {
      for (const std::int64_t seq_len : lengths_of(variant)) {
        const LayerShape layer = layer_of(seq_len, options_.heads, options_.kv_heads, head_dim);
        const PassFigures figures = measure_alone(part, variant, layer);
        points.push_back(point_of(variant, layer, figures));
        exits.push_back(variant == "stick-breaking");
        // Where one variant's outputs come from no cache, as a run's do, the other's tell less.
        if (is_cheap(variant) || !is_cheap(mechanism)) {
          rests.push_back({1.0, static_cast<double>(options_.heads * seq_len), 0.0, figures.rest});
        }
        if (variant == "stick-dense") note_exit_tile(figures.stats);
      }
    }
    KernelCost rest;
    fit_kernel_cost(rests, rest);
    fit_kernel_cost(points, cost);
    for (std::size_t i = 0; i < points.size(); ++i) {
      const KernelPoint& point = points[i];
      const double fitted =
          point.calls * cost.call_seconds + point.rows * cost.row_seconds + point.pairs * cost.pair_seconds;
      (exits[i] ? cost.exit_corrections : cost.corrections).push_back({fitted / point.calls, point.seconds / fitted});
    }
    sort(cost.corrections);
    sort(cost.exit_corrections);
    for (const KernelPoint& point : rests) {
      const double fitted = rest.call_seconds + point.rows * rest.row_seconds;
      if (fitted > 0.0 && point.seconds > 0.0) cost.rest_corrections.push_back({fitted, point.seconds / fitted});
    }
    sort(cost.rest_corrections);
    cost.pass_seconds = rest.call_seconds;
    cost.finish_row_seconds = rest.row_seconds;
    if (mechanism == "linear") cost.state_row_seconds = measure_state(part, head_dim, cost);
    const double rate = cost.pair_seconds > 0.0 ? 4e-9 * static_cast<double>(head_dim) / cost.pair_seconds : 0.0;
    say("%-16s %8lld %8d %12.2f %12.2f %14.1f %12.2f %9.3f\n", mechanism.c_str(), static_cast<long long>(head_dim),
        at_once, cost.call_seconds * 1e6, cost.row_seconds * 1e9, rate, cost.finish_row_seconds * 1e9, cost.worst_fit);
    profile_.kernels.push_back(cost);
  }

  /// A token of a head summed up into a state: the pass without its output, as every rank but the last does it first.
  double measure_state(Transport& part, std::int64_t head_dim, const KernelCost& cost) {
    const std::int64_t tokens = *std::max_element(options_.seq_lens.begin(), options_.seq_lens.end());
    const LayerShape layer = layer_of(tokens, options_.heads, options_.kv_heads, head_dim);
    ShardPlan shard{0, SequenceLayout(LayoutKind::kContiguous, tokens, 1, 1), {}, {}, {}};
    for (int head = 0; head < options_.heads; ++head) shard.heads.push_back(head);
    for (int head = 0; head < options_.kv_heads; ++head) shard.kv_heads.push_back(head);
    const RunConfig config = study_config("linear", options_.heads, {});
    const ShardInput input = make_synthetic_input(config, layer, shard, 0, nullptr);
    const LinearKernels& linear = kernels_->linear();
    const Resident k(input.k, linear.memory()), v(input.v, linear.memory()),
        decay(input.linear.log_decay, linear.memory());
    LinearTask task;
    task.q = task.k = k.view();
    task.v = v.view();
    task.log_decay = decay.view();
    const auto& params = std::get<LinearParams>(config.assignments.front().mechanism);
    std::vector<double> times;
    std::vector<HeadSlot> slots;
    for (const int head : shard.heads) slots.push_back({head, layer.kv_head_of(head)});
    const StateGroups groups(slots.size(), linear);
    Heartbeat heartbeat;
    int repeats = options_.repeats;
    for (int repeat = -1; repeat < repeats; ++repeat) {
      part.barrier();
      const Stopwatch watch;
      for (std::size_t group = 0; group < groups.count(); ++group) {
        task.slots = groups.of(group, std::span<const HeadSlot>(slots));
        task.decay_columns = groups.of(group, std::span<const int>(shard.heads));
        LinearState state;
        linear.make(state, {1, std::ssize(task.slots), head_dim, head_dim, false}, nullptr);
        linear.advance(task, params, state, heartbeat);
      }
      linear.settle(heartbeat);
      const double seconds = slowest(part, watch.seconds());
      if (repeat >= 0) times.push_back(seconds);
      if (repeat < 0) repeats = repetitions_of(seconds, options_.repeats);
    }
    return std::max(0.0, quartiles(times).median - linear_states() * cost.call_seconds) /
           static_cast<double>(tokens * options_.heads);
  }

  static double slowest(Transport& part, double seconds) { return part.RankGroup::all_reduce(seconds, ReduceOp::kMax); }

  LinkCost measure_link(Transport& part, bool is_inside) {
    const RingLink found =
        measure_ring_link(part, kernels_->memory(), options_.dtype, options_.head_dims.front(), options_.repeats);
    const LinkCost& link = found.link;
    if (is_inside || job_.ranks_on_node == 1) profile_.pack_bytes_per_second = found.pack_bytes_per_second;
    say("link %s, %s memory by %s: %.1f us, %.3f GB/s (one way alone %.3f), %.0f %% of a transfer hidden by "
        "computing\n",
        is_inside ? "inside a node" : "between nodes",
        std::string(transport().carries(kernels_->memory()) ? kernels_->memory().name() : "host").c_str(),
        std::string(transport().name()).c_str(), link.latency_seconds * 1e6, link.bytes_per_second * 1e-9,
        link.one_way_bytes_per_second * 1e-9, link.hidden * 100.0);
    return link;
  }

  /// Ranks lie node by node, so that the first ones share a node, and a ring of all leaves each node once.
  void measure_links() {
    if (job_.transport.world_size() == 1) {
      say("\nno links: one rank; plan wants --link.inside, and leaves packing keys out\n");
      return;
    }
    say("\n");
    const int near = std::min(job_.ranks_on_node, most_);
    if (near > 1) {
      const std::unique_ptr<Transport> part = transport().first_ranks(near);
      if (part) profile_.inside = measure_link(*part, true);
      release_idle(job_.transport, near);
    }
    if (job_.transport.world_size() > job_.ranks_on_node) {
      profile_.between = measure_link(transport(), false);
      if (near == 1) profile_.inside = *profile_.between;
    }
  }

  /// Some of it only the first ranks measured.
  void share_profile() {
    std::string text = to_json(profile_);
    job_.transport.broadcast(text, 0);
    profile_ = parse_cost_profile(text, "bench profile");
  }

  Job& job_;
  const BenchOptions& options_;
  std::unique_ptr<Kernels> kernels_;
  std::unique_ptr<Transport> device_transport_;
  std::size_t memory_bytes_ = 0;
  int most_ = 1;
  CostProfile profile_;
};

}  // namespace

CostProfile bench_profile(Job& job, const BenchOptions& options) {
  CostProfile profile = ProfileBench(job, options).run();
  if (options.file.empty()) return profile;
  std::vector<double> read, written;
  const std::int64_t tokens = *std::max_element(options.seq_lens.begin(), options.seq_lens.end());
  for (int repeat = -1; repeat < options.repeats; ++repeat) {
    const IoRates rates = measure_io(job.transport, job.access, options, tokens);
    if (repeat < 0) continue;
    read.push_back(rates.read);
    written.push_back(rates.written);
  }
  profile.read_bytes_per_second = quartiles(read).median;
  profile.write_bytes_per_second = quartiles(written).median;
  if (job.is_root()) {
    std::printf("files: read %.2f GB/s, written %.2f GB/s, all ranks together\n", profile.read_bytes_per_second * 1e-9,
                profile.write_bytes_per_second * 1e-9);
  }
  return profile;
}

}  // namespace ringscan
