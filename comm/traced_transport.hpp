#pragma once
// A transport that tells a trace what it does.

#include "comm/transport.hpp"
#include "core/trace.hpp"

namespace ringscan {

/// The ticket of transfers that began at `begin_ns` as one and become spans of `trace`, which must outlive it.
Ticket trace_transfers(Ticket inner, std::span<const Transfer> transfers, std::int64_t begin_ns, Trace& trace);

/// Passes every call on. Each side of a transfer becomes a span, from its start to the moment this rank learnt that
/// both sides are done; blocking calls become spans of waiting. Duplicates and parts of the ranks are not traced.
class TracedTransport final : public Transport {
 public:
  /// Both must outlive it, and the trace the tickets too.
  TracedTransport(Transport& inner, Trace& trace) : inner_(inner), trace_(trace) {}

  int rank() const override { return inner_.rank(); }
  int world_size() const override { return inner_.world_size(); }
  std::string_view name() const override { return inner_.name(); }
  void barrier() override;
  void all_reduce(std::span<double> values, ReduceOp op) override;
  void all_reduce(std::span<std::int64_t> values, ReduceOp op) override;
  void broadcast(std::string& text, int root) override;
  using RankGroup::all_reduce;

  [[nodiscard]] Ticket exchange(const Transfer& transfer) override;
  [[nodiscard]] Ticket exchange_all(std::span<const Transfer> transfers) override;
  [[nodiscard]] std::unique_ptr<PendingSum> start_sum(std::int64_t value) override;
  std::unique_ptr<Transport> duplicate() override { return inner_.duplicate(); }
  std::unique_ptr<Transport> first_ranks(int count) override { return inner_.first_ranks(count); }
  double take_queue_seconds() override { return inner_.take_queue_seconds(); }
  bool carries(const MemorySpace& space) const override { return inner_.carries(space); }
  bool supports_threads() const override { return inner_.supports_threads(); }
  void announce_failure() override { inner_.announce_failure(); }

 private:
  Transport& inner_;
  Trace& trace_;
};

}  // namespace ringscan
