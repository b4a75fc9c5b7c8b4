#pragma once
// One rank of a job whose other ranks are not there: to measure what a rank in some place computes.

#include "comm/transport.hpp"
#include "core/stopwatch.hpp"

namespace ringscan {

/// Every transfer is through at once: what is sent goes nowhere, and what arrives are float32 ones. Reductions give
/// this rank's own values.
class StandInTransport final : public Transport {
 public:
  using RankGroup::all_reduce;

  /// @pre 0 <= rank < world_size.
  StandInTransport(int rank, int world_size) : rank_(rank), world_size_(world_size) {}

  std::string_view name() const override { return "stand-in"; }
  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  void barrier() override {}
  void all_reduce(std::span<double>, ReduceOp) override {}
  void all_reduce(std::span<std::int64_t>, ReduceOp) override {}
  void broadcast(std::string&, int) override {}

  /// @pre what is received is a whole number of float32.
  Ticket exchange(const Transfer& transfer) override;
  std::unique_ptr<PendingSum> start_sum(std::int64_t value) override;
  std::unique_ptr<Transport> duplicate() override { return std::make_unique<StandInTransport>(rank_, world_size_); }
  std::unique_ptr<Transport> first_ranks(int count) override {
    return rank_ < count ? std::make_unique<StandInTransport>(rank_, count) : nullptr;
  }
  bool supports_threads() const override { return true; }

  /// Spent in exchange() so far, making ones.
  double exchange_seconds() const { return exchange_seconds_; }
  /// Since the last exchange() ended (or this was made).
  double seconds_since_exchange() const { return since_.seconds(); }

 private:
  int rank_;
  int world_size_;
  double exchange_seconds_ = 0.0;
  Stopwatch since_;
};

}  // namespace ringscan
