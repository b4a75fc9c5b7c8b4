#pragma once
// A job of one rank: nothing moves. What each of many ranks measures or computes for itself alone.

#include "comm/transport.hpp"

namespace ringscan {

class SoloTransport final : public Transport {
 public:
  using RankGroup::all_reduce;

  std::string_view name() const override { return "solo"; }
  int rank() const override { return 0; }
  int world_size() const override { return 1; }
  void barrier() override {}
  void all_reduce(std::span<double>, ReduceOp) override {}
  void all_reduce(std::span<std::int64_t>, ReduceOp) override {}
  void broadcast(std::string&, int) override {}

  Ticket exchange(const Transfer& transfer) override;
  std::unique_ptr<PendingSum> start_sum(std::int64_t value) override;
  std::unique_ptr<Transport> duplicate() override { return std::make_unique<SoloTransport>(); }
  std::unique_ptr<Transport> first_ranks(int) override { return std::make_unique<SoloTransport>(); }
  bool supports_threads() const override { return true; }
};

}  // namespace ringscan
