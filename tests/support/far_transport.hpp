#pragma once
// A transport that carries far memory as NCCL carries a GPU's, over any other.

#include <memory>
#include <string>

#include "comm/transport.hpp"
#include "core/error.hpp"

namespace ringscan::test {

class FarTransport final : public Transport {
 public:
  explicit FarTransport(Transport& inner) : inner_(inner) {}

  std::string_view name() const override { return "far"; }
  int rank() const override { return inner_.rank(); }
  int world_size() const override { return inner_.world_size(); }
  void barrier() override { inner_.barrier(); }
  void all_reduce(std::span<double> values, ReduceOp op) override { inner_.all_reduce(values, op); }
  void all_reduce(std::span<std::int64_t> values, ReduceOp op) override { inner_.all_reduce(values, op); }
  void broadcast(std::string& text, int root) override { inner_.broadcast(text, root); }
  Ticket exchange(const Transfer& transfer) override {
    sent_bytes_ += transfer.send.size();
    return inner_.exchange(transfer);
  }
  std::unique_ptr<PendingSum> start_sum(std::int64_t value) override { return inner_.start_sum(value); }
  std::unique_ptr<Transport> duplicate() override { return inner_.duplicate(); }
  std::unique_ptr<Transport> first_ranks(int count) override { return inner_.first_ranks(count); }
  bool carries(const MemorySpace& space) const override { return space.is_host() || space.name() == "far"; }
  bool supports_threads() const override { return inner_.supports_threads(); }
  void announce_failure() override { inner_.announce_failure(); }

 private:
  Transport& inner_;
};

}  // namespace ringscan::test
