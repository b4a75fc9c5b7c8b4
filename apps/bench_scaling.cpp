#include "apps/bench_scaling.hpp"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <span>
#include <thread>

#include "apps/measurement.hpp"
#include "apps/scaling_point.hpp"
#include "core/rank_group.hpp"
#include "core/stopwatch.hpp"
#include "core/system_memory.hpp"
#include "core/units.hpp"
#include "engine/run.hpp"

namespace ringscan {
namespace {

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
      "backend %s, %s; transport %s; %d processors on this node; %d repetitions or more, seconds of the "
      "slowest rank\n\n%-15s %5s %10s %9s "
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

/// The points of one curve and length: measured, printed, and added to `figures` and `json_lines`.
class Curve {
 public:
  Curve(Job& job, const BenchOptions& options, Transport& transport, std::size_t memory_bytes, Kernels& kernels,
        std::vector<ScalingFigures>& figures, std::string& json_lines)
      : job_(job),
        options_(options),
        transport_(transport),
        memory_bytes_(memory_bytes),
        kernels_(kernels),
        figures_(figures),
        json_lines_(json_lines) {}

  /// In turn where their jobs fit in memory together, since a GPU's clock depends on what it did in the seconds before:
  /// repetitions of all points then find it alike. Else one point after the other.
  void measure(const std::vector<Point>& points) {
    bool fit = false;
    run_collectively(job_.transport, [&] { fit = fit_together(points, options_, memory_bytes_, kernels_); });
    if (!fit && points.size() > 1 && job_.is_root()) {
      std::printf("one number of ranks after the other: their jobs do not fit in %s a rank together\n",
                  human_bytes(memory_bytes_).c_str());
    }
    for (std::size_t first = 0; first < points.size();) {
      const std::size_t count = fit ? points.size() : 1;
      measure_in_turn(std::span(points).subspan(first, count));
      first += count;
    }
  }

 private:
  void measure_in_turn(std::span<const Point> points) {
    std::vector<std::unique_ptr<PointJob>> jobs;
    for (const Point& point : points) {
      const bool alone = options_.what == "strong" && point.ranks == 1 && kernels_.name() == "cuda";
      jobs.push_back(std::make_unique<PointJob>(point, alone ? PointJob::Way::kAlone : PointJob::Way::kTogether,
                                                options_, transport_, job_.transport, memory_bytes_, kernels_));
    }
    for (const auto& job : jobs) job->repeat(false);  // warm-up
    std::int64_t repeats = options_.repeats;
    if (job_.is_root()) {  // which has all of these jobs
      for (const auto& job : jobs) repeats = std::max<std::int64_t>(repeats, repetitions_of(job->last_seconds(), 1));
    }
    repeats = job_.transport.RankGroup::all_reduce(repeats, ReduceOp::kMax);
    for (std::int64_t repeat = 0; repeat < repeats; ++repeat) {
      for (const auto& job : jobs) job->repeat(true);
    }
    for (const auto& job : jobs) {
      const std::vector<double> alone = job->median_seconds_alone();
      if (!alone.empty()) alone_ = alone;
      if (job_.is_root()) note(*job, alone);
    }
  }

  void note(const PointJob& job, const std::vector<double>& alone) {
    const Point& point = job.point();
    const std::vector<Repetition>& repetitions = job.repetitions();
    const double seconds = quartiles_of(repetitions, &Repetition::seconds).median;
    const double rate = quartiles_of(repetitions, &Repetition::flops).median / seconds / point.ranks;
    if (!base_) base_ = Base{point.ranks, seconds, rate};
    // Against the fewest ranks of the study: strong by time for the same job, weak by the rate a rank.
    const double efficiency =
        options_.what == "weak" ? rate / base_->rate : base_->seconds * base_->ranks / (seconds * point.ranks);
    const std::int64_t listed = options_.what == "weak" ? point.seq_len / point.ranks : point.seq_len;
    figures_.push_back({point.variant.label, point.ranks, listed, seconds,
                        quartiles_of(repetitions, &Repetition::compute_seconds).median,
                        quartiles_of(repetitions, &Repetition::exposed_seconds).median,
                        quartiles_of(repetitions, &Repetition::finish_seconds).median, efficiency});
    print_row(point, figures_.back(), repetitions, rate, share_of_gpus(alone_, point.ranks, seconds));
    add_lines(options_.what, point, repetitions, json_lines_);
    add_alone(point, alone, json_lines_);
  }

  struct Base {
    int ranks = 1;
    double seconds = 0.0;
    double rate = 0.0;
  };

  Job& job_;
  const BenchOptions& options_;
  Transport& transport_;
  std::size_t memory_bytes_;
  Kernels& kernels_;
  std::vector<ScalingFigures>& figures_;
  std::string& json_lines_;
  std::optional<Base> base_;
  std::vector<double> alone_;  ///< seconds of each GPU with the job of one rank; empty: not measured
};

}  // namespace

std::size_t memory_a_rank(Job& job, const Kernels& kernels) {
  const std::size_t available =
      std::min(kernels.memory().free_bytes() / 20 * 19,
               available_memory_bytes() / 10 * 9 / static_cast<std::size_t>(job.ranks_on_node));
  return static_cast<std::size_t>(
      job.transport.RankGroup::all_reduce(static_cast<std::int64_t>(available), ReduceOp::kMin));
}

std::vector<ScalingFigures> bench_scaling(Job& job, const BenchOptions& options, std::string& json_lines) {
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
      std::vector<Point> points;
      for (const int ranks : options.worlds) {
        points.push_back({variant, ranks, options.what == "weak" ? seq_len * ranks : seq_len});
      }
      Curve(job, options, transport, memory_bytes, *kernels, figures, json_lines).measure(points);
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
