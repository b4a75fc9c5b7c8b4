#pragma once
// A transport that carries far memory as NCCL carries a GPU's, over any other.

#include <memory>
#include <string>
#include <utility>

#include "comm/transport.hpp"
#include "core/error.hpp"
#include "tests/support/far_memory.hpp"

namespace ringscan::test {

class FarTransport final : public Transport {
 public:
  /// With this rank's memory it counts what moves from there and to there.
  explicit FarTransport(Transport& inner, const FarMemory* memory = nullptr) : inner_(inner), memory_(memory) {}

  /// From far memory, or to it; a Transfer with both sides is one.
  int far_transfers() const { return far_transfers_; }
  std::size_t far_sent_bytes() const { return far_sent_bytes_; }
  /// What take_queue_seconds() says next.
  void pretend_queue_seconds(double seconds) { queue_seconds_ = seconds; }

  std::string_view name() const override { return "far"; }
  int rank() const override { return inner_.rank(); }
  int world_size() const override { return inner_.world_size(); }
  void barrier() override { inner_.barrier(); }
  void all_reduce(std::span<double> values, ReduceOp op) override { inner_.all_reduce(values, op); }
  void all_reduce(std::span<std::int64_t> values, ReduceOp op) override { inner_.all_reduce(values, op); }
  void broadcast(std::string& text, int root) override { inner_.broadcast(text, root); }
  Ticket exchange(const Transfer& transfer) override {
    sent_bytes_ += transfer.send.size();
    if (memory_ != nullptr) count(transfer);
    return inner_.exchange(transfer);
  }
  std::unique_ptr<PendingSum> start_sum(std::int64_t value) override { return inner_.start_sum(value); }
  std::unique_ptr<Transport> duplicate() override { return inner_.duplicate(); }
  std::unique_ptr<Transport> first_ranks(int count) override { return inner_.first_ranks(count); }
  double take_queue_seconds() override { return std::exchange(queue_seconds_, 0.0); }
  bool carries(const MemorySpace& space) const override { return space.is_host() || space.name() == "far"; }
  bool supports_threads() const override { return inner_.supports_threads(); }
  void announce_failure() override { inner_.announce_failure(); }

 private:
  void count(const Transfer& transfer) {
    const bool sends = transfer.to_rank >= 0 && !transfer.send.empty();
    const bool receives = transfer.from_rank >= 0 && !transfer.receive.empty();
    const bool sends_far = sends && memory_->holds(transfer.send.data(), transfer.send.size());
    const bool receives_far = receives && memory_->holds(transfer.receive.data(), transfer.receive.size());
    if (sends && receives && sends_far != receives_far) throw failure("one side of a transfer lies on the host");
    if (sends_far || receives_far) ++far_transfers_;
    if (sends_far) far_sent_bytes_ += transfer.send.size();
  }

  Transport& inner_;
  const FarMemory* memory_;
  int far_transfers_ = 0;
  std::size_t far_sent_bytes_ = 0;
  double queue_seconds_ = 0.0;
};

}  // namespace ringscan::test
