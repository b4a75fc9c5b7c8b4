#pragma once
// One rank of a job whose other ranks are not there: to measure what a rank in some place computes.

#include "comm/lone_transport.hpp"
#include "core/stopwatch.hpp"

namespace ringscan {

/// Every transfer is through at once: what is sent goes nowhere, and what arrives are float32 ones.
class StandInTransport final : public LoneTransport {
 public:
  /// @pre 0 <= rank < world_size.
  StandInTransport(int rank, int world_size) : LoneTransport(rank, world_size) {}

  std::string_view name() const override { return "stand-in"; }
  /// @pre what is received is a whole number of float32.
  Ticket exchange(const Transfer& transfer) override;
  std::unique_ptr<Transport> duplicate() override { return std::make_unique<StandInTransport>(rank(), world_size()); }
  std::unique_ptr<Transport> first_ranks(int count) override {
    return rank() < count ? std::make_unique<StandInTransport>(rank(), count) : nullptr;
  }

  /// Spent in exchange() so far, making ones.
  double exchange_seconds() const { return exchange_seconds_; }
  /// Since the last exchange() ended (or this was made).
  double seconds_since_exchange() const { return since_.seconds(); }

 private:
  double exchange_seconds_ = 0.0;
  Stopwatch since_;
};

}  // namespace ringscan
