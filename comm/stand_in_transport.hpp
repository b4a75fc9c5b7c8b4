#pragma once
// One rank of a job whose other ranks are not there: to measure what a rank in some place computes.

#include "comm/lone_transport.hpp"
#include "core/memory_space.hpp"
#include "core/stopwatch.hpp"

namespace ringscan {

/// Every transfer is through at once: what is sent goes nowhere, and what arrives are float32 ones on the host, zeros
/// in a device's memory.
class StandInTransport final : public LoneTransport {
 public:
  /// `carried`: a device's memory that the transport in question carries; nullptr: only the host's. It must outlive
  /// this. @pre 0 <= rank < world_size.
  StandInTransport(int rank, int world_size, MemorySpace* carried = nullptr)
      : LoneTransport(rank, world_size), carried_(carried) {}

  std::string_view name() const override { return "stand-in"; }
  bool carries(const MemorySpace& space) const override { return space.is_host() || &space == carried_; }
  /// @pre what is received is a whole number of float32.
  Ticket exchange(const Transfer& transfer) override;
  std::unique_ptr<Transport> duplicate() override {
    return std::make_unique<StandInTransport>(rank(), world_size(), carried_);
  }
  std::unique_ptr<Transport> first_ranks(int count) override {
    return rank() < count ? std::make_unique<StandInTransport>(rank(), count, carried_) : nullptr;
  }

  /// Spent in exchange() so far, making ones.
  double exchange_seconds() const { return exchange_seconds_; }
  /// Since the last exchange() ended (or this was made).
  double seconds_since_exchange() const { return since_.seconds(); }

 private:
  MemorySpace* carried_;
  double exchange_seconds_ = 0.0;
  Stopwatch since_;
};

}  // namespace ringscan
