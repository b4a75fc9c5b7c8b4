#pragma once
// One point of a scaling study: a job that some of the ranks do again and again.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/measurement.hpp"
#include "apps/options.hpp"
#include "comm/solo_transport.hpp"
#include "engine/memory_job.hpp"

namespace ringscan {

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

/// Over the ranks of a job: what counts of one repetition.
struct Repetition {
  double seconds = 0.0;  ///< of the slowest rank, as all that follow
  double compute_seconds = 0.0;
  double exposed_seconds = 0.0;
  double finish_seconds = 0.0;
  double flops = 0.0;  ///< of the visible pairs whose score was computed, and of blocks; sum
  double sent_bytes = 0.0;
};

/// @pre not empty.
Quartiles quartiles_of(const std::vector<Repetition>& repetitions, double Repetition::*figure);

/// The configuration of a studied mechanism: softmax, stick-breaking, stick-dense, cog, sparse-window, sparse-topk,
/// linear, ssm, mamba, chela (these three with the whole layer) or hybrid (heads in turn softmax, stick-breaking,
/// linear).
RunConfig study_config(const std::string& mechanism, int heads, const std::optional<LayoutKind>& layout);

/// Collective over `transport`. The ranks from `ranks` on sleep until rank 0 comes here: in a collective call of MPI's
/// they would spin, and take processors from those that are measured.
void release_idle(Transport& transport, int ranks);

/// True where all the points' jobs fit in `memory_bytes` a rank at once. @throws Error(kBadInput) where one alone does
/// not.
bool fit_together(const std::vector<Point>& points, const BenchOptions& options, std::size_t memory_bytes,
                  const Kernels& kernels);

/// All ranks make it and call it together. What it is given must outlive it.
class PointJob {
 public:
  enum class Way {
    kTogether,  ///< the first ranks of all are the job's
    kAlone,     ///< a job of one rank on every rank for itself, on all at the same time, so that all GPUs are as warm
  };

  /// `transport`: what the job's keys and states move by; `control`: over the same ranks, by way of the host.
  PointJob(const Point& point, Way way, const BenchOptions& options, Transport& transport, Transport& control,
           std::size_t memory_bytes, Kernels& kernels);

  /// Once; `counts`: among the repetitions.
  void repeat(bool counts);
  /// Of the last time, also one that does not count. Of no use where this rank has no job.
  double last_seconds() const { return last_seconds_; }

  const Point& point() const { return point_; }
  /// Of this rank's job; empty where it has none.
  const std::vector<Repetition>& repetitions() const { return repetitions_; }
  /// Of every rank's, where each is alone; else empty. All ranks call it together.
  std::vector<double> median_seconds_alone() const;

 private:
  /// What the job's ranks do, and an error of theirs ended for all.
  template <typename Work>
  void on_ranks(Work&& work);

  Point point_;
  Way way_;
  Transport& control_;
  RunConfig config_;
  SoloTransport solo_;
  std::unique_ptr<Transport> part_;
  Transport* group_ = nullptr;  ///< the job's ranks; null: this is none of them
  std::unique_ptr<MemoryJob> job_;
  std::vector<Repetition> repetitions_;
  double last_seconds_ = 0.0;
};

}  // namespace ringscan
