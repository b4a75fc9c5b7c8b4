#pragma once
// The few collectives that every layer needs to agree on something: who am I, did anyone fail.

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace ringscan {

enum class ReduceOp { kSum, kMin, kMax };

/// The ranks of a job, as processes or as threads. Every function but rank() and size() is collective: each rank calls
/// it, in the same order. @throws Error(kFailure) where another rank has failed meanwhile.
class RankGroup {
 public:
  virtual ~RankGroup() = default;
  virtual int rank() const = 0;
  virtual int world_size() const = 0;
  virtual void barrier() = 0;
  /// Element-wise over the ranks, in place; the result is the same on all.
  virtual void all_reduce(std::span<double> values, ReduceOp op) = 0;
  virtual void all_reduce(std::span<std::int64_t> values, ReduceOp op) = 0;
  /// `text` of rank `root` on every rank.
  virtual void broadcast(std::string& text, int root) = 0;

  double all_reduce(double value, ReduceOp op) {
    all_reduce(std::span<double>(&value, 1), op);
    return value;
  }
  std::int64_t all_reduce(std::int64_t value, ReduceOp op) {
    all_reduce(std::span<std::int64_t>(&value, 1), op);
    return value;
  }
};

/// A group of one: all collectives are no-ops.
class SoloGroup final : public RankGroup {
 public:
  int rank() const override { return 0; }
  int world_size() const override { return 1; }
  void barrier() override {}
  void all_reduce(std::span<double>, ReduceOp) override {}
  void all_reduce(std::span<std::int64_t>, ReduceOp) override {}
  void broadcast(std::string&, int) override {}
  using RankGroup::all_reduce;
};

/// Runs `work` on every rank, then agrees on the outcome: where any rank threw an Error, all ranks throw the one of the
/// lowest such rank, marked collective. `work` itself must not call collectives that a failing rank would leave out.
void run_collectively(RankGroup& group, const std::function<void()>& work);

}  // namespace ringscan
