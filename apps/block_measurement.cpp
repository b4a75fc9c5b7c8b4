#include "apps/block_measurement.hpp"

#include <algorithm>
#include <memory>
#include <vector>

#include "apps/measurement.hpp"
#include "apps/scaling_point.hpp"
#include "comm/stand_in_transport.hpp"
#include "core/stopwatch.hpp"
#include "engine/memory_job.hpp"
#include "kernels/ssm_kernels.hpp"

namespace ringscan {
namespace {

constexpr std::int64_t kMostElements = std::int64_t{1} << 26;  // of an input
constexpr std::int64_t kMostTurns = 16;
constexpr double kNoEnd = 1e18;  // tokens that a state reaches

/// Where a measured rank stands: what others would send it is there at once.
struct Place {
  int rank = 0;
  int world = 1;
  bool reproducible = false;
};

struct Figures {
  double compute = 0.0;       ///< of the pass, packing with it
  double rest = 0.0;          ///< of the job, beside the pass
  double behind = 0.0;        ///< of the job, once the last transfer is through
  double reached_rows = 0.0;  ///< tokens that a state from an earlier rank reaches, on average over the channels
};

class BlockBench {
 public:
  BlockBench(Transport& part, Kernels& kernels, const BenchOptions& options, const std::string& mechanism,
             std::int64_t head_dim, std::size_t memory_bytes, bool carries)
      : part_(part),
        kernels_(kernels),
        options_(options),
        mechanism_(mechanism),
        head_dim_(head_dim),
        memory_bytes_(memory_bytes),
        carried_(carries && !kernels.memory().is_host() ? &kernels.memory() : nullptr),
        longest_(*std::max_element(options.seq_lens.begin(), options.seq_lens.end())) {}

  BlockCost run() {
    BlockCost cost;
    KernelCost& token = cost.token;
    token.mechanism = mechanism_;
    token.dtype = options_.dtype;
    token.head_dim = channels();
    token.at_once = part_.world_size();
    (mechanism_ == "chela" ? cost.taps : cost.states) =
        mechanism_ == "chela" ? options_.sizes.taps : options_.sizes.states;
    const double alone = measure_alone(token);
    const Figures first = measure(longest_, {0, 2, false});
    const Figures last = measure(longest_, {1, 2, false});
    const auto tokens = static_cast<double>(longest_);
    cost.behind = std::clamp(first.behind / (first.compute + first.rest), 0.0, 1.0);
    if (mechanism_ == "chela" || kernels_.make_ssm()->summarizes_first()) {
      token.state_row_seconds = std::max(0.0, first.compute - alone) / tokens;
    }
    // Where it reached all of them, no end was seen.
    cost.incoming_rows = last.reached_rows < 0.99 * tokens ? last.reached_rows : kNoEnd;
    if (last.reached_rows > 0.0) {
      cost.incoming_row_seconds = std::max(0.0, last.behind - first.behind) / last.reached_rows;
    }
    if (mechanism_ == "chela") {
      // States in order bring the all-to-all, and cost nothing more.
      cost.lines_row_seconds = std::max(0.0, measure(longest_, {1, 4, true}).compute - token.call_seconds) / tokens;
    }
    return cost;
  }

 private:
  std::int64_t channels() const { return options_.heads * head_dim_; }

  /// Fills what a rank with the whole sequence costs; returns the seconds of the longest one asked for.
  double measure_alone(KernelCost& token) {
    std::vector<std::int64_t> lengths = options_.seq_lens;
    if (4 * longest_ * channels() <= kMostElements) lengths.push_back(4 * longest_);
    std::vector<KernelPoint> points, rests;
    double longest_seconds = 0.0;
    for (const std::int64_t seq_len : lengths) {
      const Figures figures = measure(seq_len, {});
      points.push_back({1.0, static_cast<double>(seq_len), 0.0, figures.compute});
      rests.push_back({1.0, static_cast<double>(seq_len), 0.0, std::max(1e-9, figures.rest)});
      if (seq_len == longest_) longest_seconds = figures.compute;
    }
    KernelCost rest;
    fit_kernel_cost(rests, rest);
    fit_kernel_cost(points, token);
    note_corrections(points, token.corrections, token);
    token.pass_seconds = rest.call_seconds;
    token.finish_row_seconds = rest.row_seconds;
    return longest_seconds;
  }

  static void note_corrections(const std::vector<KernelPoint>& points, std::vector<SizeCorrection>& corrections,
                               const KernelCost& cost) {
    for (const KernelPoint& point : points) {
      const double fitted = cost.call_seconds + point.rows * cost.row_seconds;
      corrections.push_back({fitted, point.seconds / fitted});
    }
    std::sort(corrections.begin(), corrections.end(),
              [](const SizeCorrection& a, const SizeCorrection& b) { return a.call_seconds < b.call_seconds; });
  }

  /// A rank with so many tokens at that place.
  Figures measure(std::int64_t tokens, const Place& place) {
    StandInTransport others(place.rank, place.world, carried_);
    RunConfig config = study_config(mechanism_, options_.heads, {});
    config.reproducible = place.reproducible;
    LayerShape layer;
    layer.batch = 1;
    layer.seq_len = tokens * place.world;
    layer.num_heads = options_.heads;
    layer.num_kv_heads = options_.kv_heads;
    layer.head_dim = layer.v_dim = head_dim_;
    layer.q_type = layer.kv_type = layer.o_type = options_.dtype;
    // A run meets its tokens once: short inputs take turns, so that none waits in a cache for its next repetition.
    std::vector<std::unique_ptr<MemoryJob>> jobs;
    const std::int64_t turns = std::clamp<std::int64_t>(4 * longest_ / tokens, 1, kMostTurns);
    for (std::int64_t i = 0; i < turns; ++i) {
      jobs.push_back(std::make_unique<MemoryJob>(config, layer, memory_bytes_, others, kernels_, options_.sizes));
    }
    for (std::size_t i = 1; i < jobs.size(); ++i) jobs[i]->run();
    const Stopwatch warm_up;
    jobs.front()->run();
    const int repeats = repetitions_of(slowest(warm_up.seconds()), options_.repeats);
    std::vector<double> compute, rest, behind;
    for (int repeat = 0; repeat < repeats; ++repeat) {
      part_.barrier();
      const double exchanged = others.exchange_seconds();
      const Stopwatch watch;
      const RingPassResult result = jobs[static_cast<std::size_t>(repeat % turns)]->run();
      const double whole = watch.seconds();
      const double moving = others.exchange_seconds() - exchanged;
      const double pass = result.compute_seconds + result.exposed_seconds;
      double times[] = {pass - moving, whole - pass, std::min(whole, others.seconds_since_exchange())};
      part_.all_reduce(std::span<double>(times), ReduceOp::kMax);
      compute.push_back(times[0]);
      rest.push_back(times[1]);
      behind.push_back(times[2]);
    }
    const double inner = static_cast<double>(channels()) * (mechanism_ == "mamba" ? 2.0 : 1.0);
    return {quartiles(compute).median, quartiles(rest).median, quartiles(behind).median,
            static_cast<double>(jobs.front()->reached_by_state()) / inner};
  }

  double slowest(double seconds) { return part_.RankGroup::all_reduce(seconds, ReduceOp::kMax); }

  Transport& part_;
  Kernels& kernels_;
  const BenchOptions& options_;
  const std::string& mechanism_;
  std::int64_t head_dim_;
  std::size_t memory_bytes_;
  MemorySpace* carried_;  // by a run's transport, beside the host's
  std::int64_t longest_;  // of those asked for
};

}  // namespace

bool is_block_name(const std::string& mechanism) {
  return mechanism == "ssm" || mechanism == "mamba" || mechanism == "chela";
}

BlockCost measure_block(Transport& part, Kernels& kernels, const BenchOptions& options, const std::string& mechanism,
                        std::int64_t head_dim, std::size_t memory_bytes, bool carries) {
  return BlockBench(part, kernels, options, mechanism, head_dim, memory_bytes, carries).run();
}

}  // namespace ringscan
