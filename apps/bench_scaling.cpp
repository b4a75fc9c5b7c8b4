#include "apps/bench_scaling.hpp"

#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>

#include "apps/measurement.hpp"
#include "comm/solo_transport.hpp"
#include "core/rank_group.hpp"
#include "core/stopwatch.hpp"
#include "core/system_memory.hpp"
#include "core/units.hpp"
#include "engine/memory_job.hpp"
#include "engine/run.hpp"

namespace ringscan {
namespace {

/// Over the ranks of a job: what counts of one repetition.
struct Repetition {
  double seconds = 0.0;  ///< of the slowest rank, as all that follow
  double compute_seconds = 0.0;
  double exposed_seconds = 0.0;
  double finish_seconds = 0.0;
  double flops = 0.0;  ///< of the visible pairs whose score was computed, and of blocks; sum
  double sent_bytes = 0.0;
};

Repetition measure(MemoryJob& job, Transport& transport) {
  transport.barrier();
  const Stopwatch watch;
  const RingPassResult result = job.run();
  double slowest[] = {watch.seconds(), result.compute_seconds, result.exposed_seconds, result.finish_seconds};
  transport.all_reduce(std::span<double>(slowest), ReduceOp::kMax);
  double sums[] = {result.flops, static_cast<double>(result.sent_bytes)};
  transport.all_reduce(std::span<double>(sums), ReduceOp::kSum);
  return {slowest[0], slowest[1], slowest[2], slowest[3], sums[0], sums[1]};
}

/// What is studied: a curve.
struct Variant {
  std::string mechanism;
  std::optional<LayoutKind> layout;
  ElementType dtype = ElementType::kFloat32;
  std::string label;  ///< the mechanism, and what of the rest differs between curves
};

struct Point {
  Variant variant;
  int ranks = 1;
  std::int64_t seq_len = 0;
};

std::vector<Variant> variants_of(const BenchOptions& options) {
  std::vector<Variant> variants;
  for (const std::string& mechanism : options.mechanisms) {
    for (const std::optional<LayoutKind>& layout : options.layouts) {
      for (const ElementType dtype : options.dtypes) {
        std::string label = mechanism;
        if (options.layouts.size() > 1) label += "->" + (layout ? std::string(name_of(*layout)) : "auto");
        if (options.dtypes.size() > 1) label += "->" + std::string(name_of(dtype));
        variants.push_back({mechanism, layout, dtype, label});
      }
    }
  }
  return variants;
}

std::vector<Repetition> measure_point(const Point& point, const BenchOptions& options, Transport& transport,
                                      std::size_t memory_bytes, Kernels& kernels) {
  const RunConfig config = study_config(point.variant.mechanism, options.heads, point.variant.layout);
  LayerShape layer;
  layer.batch = 1;
  layer.seq_len = point.seq_len;
  layer.num_heads = options.heads;
  layer.num_kv_heads = options.kv_heads;
  layer.head_dim = layer.v_dim = options.head_dims.front();
  layer.q_type = layer.kv_type = layer.o_type = point.variant.dtype;
  MemoryJob job(config, layer, memory_bytes, transport, kernels, options.sizes);
  measure(job, transport);  // warm-up
  std::vector<Repetition> repetitions;
  for (int i = 0; i < options.repeats; ++i) repetitions.push_back(measure(job, transport));
  return repetitions;
}

Quartiles quartiles_of(const std::vector<Repetition>& repetitions, double Repetition::*figure) {
  std::vector<double> values;
  for (const Repetition& repetition : repetitions) values.push_back(repetition.*figure);
  return quartiles(std::move(values));
}

void add_lines(const std::string& study, const Point& point, const std::vector<Repetition>& repetitions,
               std::string& lines) {
  const Parameters parameters{{"ranks", point.ranks}, {"seq_len", static_cast<double>(point.seq_len)}};
  const auto add = [&](const char* metric, double Repetition::*figure) {
    for (const Repetition& repetition : repetitions) {
      lines += extrap_line(parameters, study + "->" + point.variant.label, metric, repetition.*figure);
    }
  };
  add("seconds", &Repetition::seconds);
  add("compute_seconds", &Repetition::compute_seconds);
  add("exposed_seconds", &Repetition::exposed_seconds);
  add("finish_seconds", &Repetition::finish_seconds);
  add("flops", &Repetition::flops);
  add("sent_bytes", &Repetition::sent_bytes);
}

/// A value a rank.
void add_alone(const Point& point, const std::vector<double>& alone, std::string& lines) {
  for (const double seconds : alone) {
    lines += extrap_line({{"ranks", 1}, {"seq_len", static_cast<double>(point.seq_len)}},
                         "strong->" + point.variant.label, "alone_seconds", seconds);
  }
}

/// The job on every rank for itself, all at the same time, so that all GPUs are as warm: the median seconds of each,
/// known to all. `mine`: this rank's.
std::vector<double> measure_alone(const Point& point, const BenchOptions& options, Transport& all,
                                  std::size_t memory_bytes, Kernels& kernels, std::vector<Repetition>& mine) {
  SoloTransport solo;
  run_collectively(all, [&] { mine = measure_point(point, options, solo, memory_bytes, kernels); });
  std::vector<double> seconds(static_cast<std::size_t>(all.world_size()));
  seconds[static_cast<std::size_t>(all.rank())] = quartiles_of(mine, &Repetition::seconds).median;
  all.all_reduce(std::span<double>(seconds), ReduceOp::kSum);
  return seconds;
}

/// The job on the first `point.ranks` ranks; nothing on the others. They know nothing of an error: rank 0 has to end
/// the job for them.
std::vector<Repetition> measure_together(const Point& point, const BenchOptions& options, Transport& all,
                                         std::size_t memory_bytes, Kernels& kernels) {
  const std::unique_ptr<Transport> part = all.first_ranks(point.ranks);
  if (part == nullptr) return {};
  try {
    return measure_point(point, options, *part, memory_bytes, kernels);
  } catch (const Error& error) {
    if (all.rank() == 0 && point.ranks < all.world_size()) throw Error(error.code(), error.what());
    throw;
  }
}

/// What the first `ranks` GPUs do together of what each did alone: 1 where nothing is lost to their working together.
/// 0: they were not measured alone.
double share_of_gpus(const std::vector<double>& alone, int ranks, double seconds) {
  if (alone.empty()) return 0.0;
  double rate = 0.0;
  for (int rank = 0; rank < ranks; ++rank) rate += 1.0 / alone[static_cast<std::size_t>(rank)];
  return 1.0 / (rate * seconds);
}

void print_head(const Kernels& kernels, const Transport& transport, const BenchOptions& options) {
  std::printf(
      "backend %s, %s; transport %s; %d processors on this node; %d repetitions, seconds of the slowest "
      "rank\n\n%-15s %5s %10s %9s "
      "%19s %9s "
      "%9s %9s %10s %10s\n",
      std::string(kernels.name()).c_str(), kernels.device().c_str(), std::string(transport.name()).c_str(),
      static_cast<int>(std::thread::hardware_concurrency()), options.repeats, "mechanism", "ranks", "seq_len", "median",
      "quartiles", "compute", "exposed", "finish", "sent MiB", "GFLOP/s");
  std::printf("%116s %10s %10s\n", "a rank", "efficiency", "of GPUs");
}

/// `rate`: FLOP/s a rank. `of_gpus`: share_of_gpus().
void print_row(const Point& point, const ScalingFigures& figures, const std::vector<Repetition>& repetitions,
               double rate, double of_gpus) {
  const Quartiles seconds = quartiles_of(repetitions, &Repetition::seconds);
  std::printf("%-15s %5d %10lld %9.4f %9.4f-%9.4f %9.4f %9.4f %9.4f %10.1f %10.2f %10.3f %10s\n",
              point.variant.label.c_str(), point.ranks, static_cast<long long>(point.seq_len), seconds.median,
              seconds.first, seconds.third, figures.compute_seconds, figures.exposed_seconds, figures.finish_seconds,
              quartiles_of(repetitions, &Repetition::sent_bytes).median / 0x1p20, rate * 1e-9, figures.efficiency,
              of_gpus > 0.0 ? printed("%.3f", of_gpus).c_str() : "-");
  std::fflush(stdout);
}

/// Against the fewest ranks of the study: strong by time for the same job, weak by the rate a rank.
double efficiency_of(bool is_weak, const Point& point, double seconds, double rate, const Point& base,
                     double base_seconds, double base_rate) {
  return is_weak ? rate / base_rate : base_seconds * base.ranks / (seconds * point.ranks);
}

}  // namespace

void release_idle(Transport& transport, int ranks) {
  const std::byte out{1};
  std::byte in{};
  if (transport.rank() == 0) {
    for (int rank = ranks; rank < transport.world_size(); ++rank) {
      transport.exchange({rank, {&out, 1}, -1, {}}).wait();
    }
  } else if (transport.rank() >= ranks) {
    Ticket released = transport.exchange({-1, {}, 0, {&in, 1}});
    while (!released.poll()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  transport.barrier();
}

RunConfig study_config(const std::string& mechanism, int heads, const std::optional<LayoutKind>& layout) {
  RunConfig config;
  config.layout = layout;
  const LinearParams linear{Decay::kToken, FeatureMap::kIdentity, Normalizer::kNone};
  StickBreakingParams dense;
  dense.epsilon = 0.0;
  SparseParams window;
  window.select = SparseSelect::kWindow;
  if (mechanism == "softmax") config.assignments = {{SoftmaxParams{}, {}}};
  if (mechanism == "stick-breaking") config.assignments = {{StickBreakingParams{}, {}}};
  if (mechanism == "stick-dense") config.assignments = {{dense, {}}};
  if (mechanism == "cog") config.assignments = {{CogParams{}, {}}};
  if (mechanism == "sparse-window") config.assignments = {{window, {}}};
  if (mechanism == "sparse-topk") config.assignments = {{SparseParams{}, {}}};
  if (mechanism == "linear") config.assignments = {{linear, {}}};
  if (mechanism == "ssm") config.blocks = {{SsmParams{}, {}}};
  if (mechanism == "mamba") config.blocks = {{MambaParams{}, {}}};
  if (mechanism == "chela") config.blocks = {{ChelaParams{}, {}}};
  if (mechanism == "hybrid") {
    config.assignments = {{SoftmaxParams{}, {}}, {StickBreakingParams{}, {}}, {linear, {}}};
    for (int head = 0; head < heads; ++head) {
      config.assignments[static_cast<std::size_t>(head % 3)].heads.push_back(head);
    }
  }
  return config;
}

std::size_t memory_a_rank(Job& job, const Kernels& kernels) {
  const std::size_t available =
      std::min(kernels.memory().free_bytes() / 20 * 19,
               available_memory_bytes() / 10 * 9 / static_cast<std::size_t>(job.ranks_on_node));
  return static_cast<std::size_t>(
      job.transport.RankGroup::all_reduce(static_cast<std::int64_t>(available), ReduceOp::kMin));
}

std::vector<ScalingFigures> bench_scaling(Job& job, const BenchOptions& options, std::string& json_lines) {
  const bool is_weak = options.what == "weak";
  std::vector<ScalingFigures> figures;
  RunContext context;
  context.transport = &job.transport;
  context.ranks_on_node = job.ranks_on_node;
  context.rank_on_node = job.rank_on_node;
  const auto kernels = make_kernels(options.backend, context);
  const auto device_transport = make_device_transport(*kernels, context, RunConfig().hop_limit_seconds);
  Transport& transport = device_transport ? *device_transport : job.transport;
  const std::size_t memory_bytes = memory_a_rank(job, *kernels);
  if (job.is_root()) print_head(*kernels, transport, options);
  for (const Variant& variant : variants_of(options)) {
    for (const std::int64_t seq_len : options.seq_lens) {
      Point base;
      double base_seconds = 0.0;
      double base_rate = 0.0;
      std::vector<double> alone;
      for (const int ranks : options.worlds) {
        const Point point{variant, ranks, is_weak ? seq_len * ranks : seq_len};
        std::vector<Repetition> repetitions;
        if (!is_weak && ranks == 1 && kernels->name() == "cuda") {
          alone = measure_alone(point, options, job.transport, memory_bytes, *kernels, repetitions);
        } else {
          repetitions = measure_together(point, options, transport, memory_bytes, *kernels);
        }
        release_idle(job.transport, ranks);
        if (!job.is_root()) continue;
        const Quartiles seconds = quartiles_of(repetitions, &Repetition::seconds);
        const double rate = quartiles_of(repetitions, &Repetition::flops).median / seconds.median / ranks;
        if (base_seconds == 0.0) {
          base = point;
          base_seconds = seconds.median;
          base_rate = rate;
        }
        figures.push_back({variant.label, ranks, seq_len, seconds.median,
                           quartiles_of(repetitions, &Repetition::compute_seconds).median,
                           quartiles_of(repetitions, &Repetition::exposed_seconds).median,
                           quartiles_of(repetitions, &Repetition::finish_seconds).median,
                           efficiency_of(is_weak, point, seconds.median, rate, base, base_seconds, base_rate)});
        print_row(point, figures.back(), repetitions, rate, share_of_gpus(alone, ranks, seconds.median));
        add_lines(options.what, point, repetitions, json_lines);
        if (ranks == 1) add_alone(point, alone, json_lines);
      }
    }
  }
  return figures;
}

void bench_comm(Job& job, const BenchOptions& options, std::string& json_lines) {
  if (job.is_root()) {
    std::printf("each rank to the next; %d repetitions, seconds of the slowest rank\n\n%5s %12s %12s %25s %12s\n",
                options.repeats, "ranks", "bytes", "median us", "quartiles us", "GB/s a rank");
  }
  for (const int ranks : options.worlds) {
    const std::unique_ptr<Transport> part = ranks > 1 ? job.transport.first_ranks(ranks) : nullptr;
    for (std::size_t bytes = 8; part && bytes <= (std::size_t{64} << 20); bytes *= 8) {
      std::vector<std::byte> out(bytes), in(bytes);
      const Transfer transfer{(part->rank() + 1) % ranks, out, (part->rank() + ranks - 1) % ranks, in};
      std::vector<double> times;
      const int rounds = bytes < 65536 ? 100 : 4;
      for (int repeat = -1; repeat < options.repeats; ++repeat) {  // the first is the warm-up
        part->barrier();
        const Stopwatch watch;
        for (int i = 0; i < rounds; ++i) part->exchange(transfer).wait();
        const double seconds = part->RankGroup::all_reduce(watch.seconds() / rounds, ReduceOp::kMax);
        if (repeat >= 0) times.push_back(seconds);
      }
      if (!job.is_root()) continue;
      const Quartiles found = quartiles(times);
      std::printf("%5d %12zu %12.2f %12.2f-%12.2f %12.3f\n", ranks, bytes, found.median * 1e6, found.first * 1e6,
                  found.third * 1e6, static_cast<double>(bytes) / found.median * 1e-9);
      for (const double seconds : times) {
        json_lines += extrap_line({{"ranks", ranks}, {"bytes", static_cast<double>(bytes)}}, "comm->exchange",
                                  "seconds", seconds);
      }
    }
    release_idle(job.transport, ranks);
  }
}

}  // namespace ringscan
