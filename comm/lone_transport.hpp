#pragma once
// What the transports of a rank that meets no other have in common.

#include "comm/transport.hpp"

namespace ringscan {

/// What all ranks agree on are this rank's own values: reductions and broadcasts leave them as they are.
class LoneTransport : public Transport {
 public:
  using RankGroup::all_reduce;

  int rank() const final { return rank_; }
  int world_size() const final { return world_size_; }
  void barrier() final {}
  void all_reduce(std::span<double>, ReduceOp) final {}
  void all_reduce(std::span<std::int64_t>, ReduceOp) final {}
  void broadcast(std::string&, int) final {}
  std::unique_ptr<PendingSum> start_sum(std::int64_t value) final;
  bool supports_threads() const final { return true; }

 protected:
  /// @pre 0 <= rank < world_size.
  LoneTransport(int rank, int world_size) : rank_(rank), world_size_(world_size) {}

 private:
  int rank_;
  int world_size_;
};

}  // namespace ringscan
