// ringscan bench; here kernels: each block kernel beside the ceilings, measured in one run and one thread.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <vector>

#include "apps/bench_profile.hpp"
#include "apps/bench_scaling.hpp"
#include "apps/bench_sparse.hpp"
#include "apps/bench_ssm.hpp"
#include "apps/commands.hpp"
#include "apps/gnuplot.hpp"
#include "apps/measurement.hpp"
#include "apps/normal_values.hpp"
#include "apps/peer_sgemm.hpp"
#include "core/buffer.hpp"
#include "core/error.hpp"
#include "core/stopwatch.hpp"
#include "engine/run.hpp"
#include "io/report.hpp"
#include "kernels/cpu/fma_peak.hpp"
#include "kernels/linear_kernels.hpp"

namespace ringscan {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kPeakSampleSeconds = 0.01;
constexpr double kPeakIntervalSeconds = 0.2;
constexpr double kLinearSampleSeconds = 0.5;
constexpr std::int64_t kWarmUpTokens = 8192;

/// Measures the FMA peak again and again while a kernel runs (and takes that time off it), since the clock of a shared
/// or thermally limited processor moves within seconds.
class PeakSampler final : public Heartbeat {
 public:
  void beat() override {
    if (since_.seconds() < kPeakIntervalSeconds) return;
    sample();
  }
  void sample() {
    const ThreadStopwatch watch;
    peaks_.push_back(measure_fma_peak_gflops(kPeakSampleSeconds));
    since_.lap();
    seconds_ += watch.seconds();
  }
  /// Processor time spent measuring since the last call.
  double take_seconds() { return std::exchange(seconds_, 0.0); }
  double mean_gflops() const {
    double sum = 0.0;
    for (const double peak : peaks_) sum += peak;
    return sum / static_cast<double>(peaks_.size());
  }

 private:
  Stopwatch since_;
  double seconds_ = 0.0;
  std::vector<double> peaks_;
};

struct KernelFigures {
  double gflops = 0.0;
  double peak_gflops = 0.0;
  Quartiles ratio;
};

/// One head, one rank, causal, random normal input.
template <typename Params>
KernelFigures bench_kernel(Kernels& kernels, const Params& params, std::int64_t seq_len, std::int64_t head_dim,
                           int repeats) {
  const auto q = normal_values(seq_len * head_dim, 1);
  const auto k = normal_values(seq_len * head_dim, 2);
  const auto v = normal_values(seq_len * head_dim, 3);
  const HeadSlot slot{0, 0};
  const auto attend = [&](std::int64_t tokens, PeakSampler& sampler) {
    const Shape4 shape{1, tokens, 1, head_dim};
    AttendTask task;
    task.q = dense_any_view(q.data(), ElementType::kFloat32, shape);
    task.k = dense_any_view(k.data(), ElementType::kFloat32, shape);
    task.v = dense_any_view(v.data(), ElementType::kFloat32, shape);
    task.slots = {&slot, 1};
    task.query_run = task.key_run = {0, tokens};
    task.band = band_of(params);
    task.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
    typename BlockOf<Params>::type block;
    kernels.make(block, {1, tokens, 1, head_dim}, nullptr);
    sampler.sample();
    sampler.take_seconds();
    const ThreadStopwatch watch;
    const AttendStats stats = kernels.attend(task, params, block, sampler);
    const double seconds = watch.seconds() - sampler.take_seconds();
    sampler.sample();
    return std::pair(stats, seconds);
  };
  PeakSampler warm_up;
  attend(std::min(seq_len, kWarmUpTokens), warm_up);
  std::vector<double> rates, peaks, ratios;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    PeakSampler sampler;
    const auto [stats, seconds] = attend(seq_len, sampler);
    rates.push_back(4.0 * static_cast<double>(head_dim) * static_cast<double>(stats.pairs) / seconds * 1e-9);
    peaks.push_back(sampler.mean_gflops());
    ratios.push_back(rates.back() / peaks.back());
  }
  return {quartiles(rates).median, quartiles(peaks).median, quartiles(ratios)};
}

/// As above for linear attention with a decay a token, whose work is a state of head_dim x head_dim and chunks, not
/// pairs.
KernelFigures bench_linear(Kernels& kernels, std::int64_t seq_len, std::int64_t head_dim, int repeats) {
  const LinearParams params{Decay::kToken, FeatureMap::kIdentity, Normalizer::kNone};
  const auto q = normal_values(seq_len * head_dim, 1);
  const auto k = normal_values(seq_len * head_dim, 2);
  const auto v = normal_values(seq_len * head_dim, 3);
  auto log_decay = normal_values(seq_len, 4);
  for (float& g : log_decay) g = -0.1f * std::abs(g);
  std::vector<float> o(q.size());
  const Shape4 shape{1, seq_len, 1, head_dim};
  const HeadSlot slot{0, 0};
  const int column = 0;
  LinearTask task;
  task.q = dense_any_view(q.data(), ElementType::kFloat32, shape);
  task.k = dense_any_view(k.data(), ElementType::kFloat32, shape);
  task.v = dense_any_view(v.data(), ElementType::kFloat32, shape);
  task.slots = {&slot, 1};
  task.log_decay = dense_any_view(std::as_const(log_decay).data(), ElementType::kFloat32, {1, seq_len, 1, 1});
  task.decay_columns = {&column, 1};
  task.scale = 1.0 / std::sqrt(static_cast<double>(head_dim));
  task.o = dense_any_view(static_cast<void*>(o.data()), ElementType::kFloat32, shape);
  const auto dim = static_cast<double>(head_dim);
  const double flops = linear_output_flops(static_cast<double>(seq_len), dim, dim);
  std::vector<double> rates, peaks, ratios;
  for (int repeat = -1; repeat < repeats; ++repeat) {  // the first is the warm-up
    LinearState state;
    kernels.linear().make(state, {1, 1, head_dim, head_dim, false}, nullptr);
    PeakSampler sampler;
    sampler.sample();
    sampler.take_seconds();
    const ThreadStopwatch watch;
    int passes = 0;  // one takes milliseconds
    do {
      kernels.linear().advance(task, params, state, sampler);
      ++passes;
    } while (watch.seconds() < kLinearSampleSeconds);
    const double seconds = watch.seconds() - sampler.take_seconds();
    sampler.sample();
    if (repeat < 0) continue;
    rates.push_back(passes * flops / seconds * 1e-9);
    peaks.push_back(sampler.mean_gflops());
    ratios.push_back(rates.back() / peaks.back());
  }
  return {quartiles(rates).median, quartiles(peaks).median, quartiles(ratios)};
}

KernelFigures bench_mechanism(Kernels& kernels, const std::string& mechanism, std::int64_t seq_len,
                              std::int64_t head_dim, int repeats) {
  if (mechanism == "linear") return bench_linear(kernels, seq_len, head_dim, repeats);
  if (mechanism == "cog") return bench_kernel(kernels, CogParams{}, seq_len, head_dim, repeats);
  if (mechanism == "softmax") return bench_kernel(kernels, SoftmaxParams{}, seq_len, head_dim, repeats);
  StickBreakingParams dense;
  dense.epsilon = 0.0;
  return bench_kernel(kernels, dense, seq_len, head_dim, repeats);
}

}  // namespace

namespace {

bool is_sparse(const std::string& mechanism) {
  return mechanism.starts_with("sparse-");
}

/// n^C-sparse attention is held against dense softmax, measured in turn.
void bench_sparse_mechanisms(Kernels& kernels, const BenchOptions& options,
                             const std::function<void(const Json&)>& add_json) {
  if (std::none_of(options.mechanisms.begin(), options.mechanisms.end(), is_sparse)) return;
  std::printf("\n%-16s %10s %9s %12s %12s %8s %13s\n", "n^0.7", "seq_len", "head_dim", "GFLOP/s", "dense then", "ratio",
              "quartiles");
  for (const std::string& mechanism : options.mechanisms) {
    if (!is_sparse(mechanism)) continue;
    const auto select = mechanism == "sparse-window" ? SparseSelect::kWindow : SparseSelect::kTopk;
    for (const std::int64_t seq_len : options.seq_lens) {
      for (const std::int64_t head_dim : options.head_dims) {
        const SparseFigures figures = bench_sparse(kernels, select, seq_len, head_dim, options.repeats);
        std::printf("%-16s %10lld %9lld %12.1f %12.1f %8.3f %6.3f-%6.3f", mechanism.c_str(),
                    static_cast<long long>(seq_len), static_cast<long long>(head_dim), figures.gflops,
                    figures.dense_gflops, figures.ratio.median, figures.ratio.first, figures.ratio.third);
        if (figures.rounds > 0)
          std::printf("  (%d rounds, %.2f times its time)", figures.rounds, 1.0 / figures.ratio.median);
        std::printf("\n");
        std::fflush(stdout);
        add_json({{"bench", "sparse"},
                  {"mechanism", mechanism},
                  {"seq_len", seq_len},
                  {"head_dim", head_dim},
                  {"gflops", figures.gflops},
                  {"dense_gflops", figures.dense_gflops},
                  {"ratio", figures.ratio.median},
                  {"ratio_quartiles", {figures.ratio.first, figures.ratio.third}},
                  {"search_rounds", figures.rounds}});
      }
    }
  }
}

/// The selective scan is held against what binds it: its exponentials or its bytes, measured in turn.
void bench_ssm_mechanism(const BenchOptions& options, const std::function<void(const Json&)>& add_json) {
  if (std::find(options.mechanisms.begin(), options.mechanisms.end(), "ssm") == options.mechanisms.end()) return;
  std::printf("\n%-16s %10s %9s %12s %12s %12s %8s %13s\n", "mechanism", "seq_len", "channels", "seconds", "exp alone",
              "bytes alone", "ratio", "quartiles");
  for (const std::int64_t seq_len : options.seq_lens) {
    const SsmFigures figures = bench_ssm(seq_len, options.repeats);
    std::printf("%-16s %10lld %9lld %12.3f %12.3f %12.3f %8.3f %6.3f-%6.3f  (times the one that binds)\n", "ssm",
                static_cast<long long>(seq_len), static_cast<long long>(kSsmBenchChannels), figures.seconds,
                figures.exp_seconds, figures.memory_seconds, figures.ratio.median, figures.ratio.first,
                figures.ratio.third);
    std::fflush(stdout);
    add_json({{"bench", "ssm"},
              {"seq_len", seq_len},
              {"channels", kSsmBenchChannels},
              {"seconds", figures.seconds},
              {"exp_seconds", figures.exp_seconds},
              {"memory_seconds", figures.memory_seconds},
              {"ratio", figures.ratio.median},
              {"ratio_quartiles", {figures.ratio.first, figures.ratio.third}}});
  }
}

}  // namespace

namespace {

/// All but kernels.
int bench_study(Job& job, BenchOptions options) {
  const int most = job.transport.world_size();
  if (options.what == "profile") {
    write_json_file(job.transport, options.profile, to_json(bench_profile(job, options)));
    if (job.is_root()) {
      if (!options.file.empty()) std::remove(options.file.c_str());
      std::printf("profile: %s\n", options.profile.c_str());
    }
    return static_cast<int>(ExitCode::kDone);
  }
  if (options.worlds.empty() && options.what == "io" && job.access.is_parallel()) options.worlds = {most};
  if (options.worlds.empty()) {
    for (int ranks = 1; ranks < most; ranks *= 2) options.worlds.push_back(ranks);
    options.worlds.push_back(most);
  }
  if (options.worlds.back() > most) {
    Error error = bad_input("--world: found " + std::to_string(options.worlds.back()) + ", want at most the " +
                            std::to_string(most) + " ranks of this job");
    error.set_collective();  // every rank finds it
    throw error;
  }
  std::string json_lines;
  if (options.what == "comm") {
    bench_comm(job, options, json_lines);
  } else if (options.what == "io") {
    bench_io(job, options, json_lines);
  } else {
    if (!options.plot.empty()) run_collectively(job.transport, require_gnuplot);
    const std::vector<ScalingFigures> figures = bench_scaling(job, options, json_lines);
    if (!options.plot.empty()) {
      run_collectively(job.transport, [&] {
        if (job.is_root()) draw_scaling_plot(options.what, figures, options.plot);
      });
    }
  }
  if (json_lines.ends_with('\n')) json_lines.pop_back();  // the file's end has one
  if (!options.json.empty()) write_json_file(job.transport, options.json, json_lines);
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace

int bench_command(Job& job, const BenchOptions& options) {
  for (const std::string& file : {options.json, options.profile, options.plot}) check_report_path(job.transport, file);
  if (options.what != "kernels") return bench_study(job, options);
  if (job.transport.world_size() != 1) throw bad_input("bench kernels measures one thread: run it with one rank");
  const auto kernels = make_cpu_kernels();
  std::string json_lines;
  const auto add_json = [&](const Json& json) { json_lines += json.dump() + "\n"; };

  std::printf(
      "%s backend, %s, one thread; rates are of its processor time, and the FMA peak is measured\nevery %.1f s while a "
      "kernel runs\n\n",
      std::string(kernels->name()).c_str(), kernels->device().c_str(), kPeakIntervalSeconds);
  const double peak = measure_fma_peak_gflops(0.5);
  std::printf("%-44s %8.1f GFLOP/s\n", "fp32 FMA peak (register-only loop)", peak);
  add_json({{"bench", "fma-peak"}, {"gflops", peak}});
  for (const std::int64_t size : {std::int64_t{512}, std::int64_t{2048}}) {
    const auto gflops = measure_onednn_sgemm_gflops(size);
    if (!gflops) continue;
    std::printf("oneDNN sgemm %4lld^3 %26s %8.1f GFLOP/s\n", static_cast<long long>(size), "", *gflops);
    add_json({{"bench", "onednn-sgemm"}, {"size", size}, {"gflops", *gflops}});
  }
  std::printf("\n%-16s %10s %9s %12s %12s %8s %13s\n", "mechanism", "seq_len", "head_dim", "GFLOP/s", "peak then",
              "ratio", "quartiles");
  for (const std::string& mechanism : options.mechanisms) {
    if (is_sparse(mechanism) || mechanism == "ssm") continue;
    for (const std::int64_t seq_len : options.seq_lens) {
      for (const std::int64_t head_dim : options.head_dims) {
        const KernelFigures figures = bench_mechanism(*kernels, mechanism, seq_len, head_dim, options.repeats);
        std::printf("%-16s %10lld %9lld %12.1f %12.1f %8.3f %6.3f-%6.3f\n", mechanism.c_str(),
                    static_cast<long long>(seq_len), static_cast<long long>(head_dim), figures.gflops,
                    figures.peak_gflops, figures.ratio.median, figures.ratio.first, figures.ratio.third);
        std::fflush(stdout);
        add_json({{"bench", "kernel"},
                  {"mechanism", mechanism},
                  {"seq_len", seq_len},
                  {"head_dim", head_dim},
                  {"gflops", figures.gflops},
                  {"peak_gflops", figures.peak_gflops},
                  {"ratio", figures.ratio.median},
                  {"ratio_quartiles", {figures.ratio.first, figures.ratio.third}}});
      }
    }
  }
  bench_sparse_mechanisms(*kernels, options, add_json);
  bench_ssm_mechanism(options, add_json);
  if (!options.json.empty()) write_json_file(job.transport, options.json, json_lines);
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace ringscan
