#include "comm/traced_transport.hpp"

#include <algorithm>
#include <string>
#include <vector>

namespace ringscan {
namespace {

class TracedTransfers final : public Ticket::Impl {
 public:
  TracedTransfers(Ticket inner, std::span<const Transfer> transfers, std::int64_t begin_ns, Trace& trace)
      : inner_(std::move(inner)), trace_(trace) {
    for (const Transfer& transfer : transfers) {
      if (transfer.to_rank >= 0) add_side(SpanKind::kSend, transfer.to_rank, transfer.send.size(), begin_ns);
      if (transfer.from_rank >= 0) add_side(SpanKind::kReceive, transfer.from_rank, transfer.receive.size(), begin_ns);
    }
  }

  bool poll() override {
    if (is_done_) return true;
    if (inner_.poll()) note_done();
    return is_done_;
  }

  void wait() override {
    if (is_done_) return;
    {
      const auto received = std::find_if(sides_.begin(), sides_.end(),
                                         [](const TraceEvent& side) { return side.kind == SpanKind::kReceive; });
      const TraceSpan span(SpanKind::kWait,
                           received != sides_.end() ? "for rank " + std::to_string(received->peer) : "");
      inner_.wait();
    }
    note_done();
  }

  // On a device the queue waits, not the rank.
  void order() override { inner_.order(); }

  // The inner ticket, too, sees that an exception unwinds, and gives up.
  void abandon() override { inner_ = Ticket(); }

 private:
  void add_side(SpanKind kind, int peer, std::size_t bytes, std::int64_t begin_ns) {
    if (bytes > 0) sides_.push_back({kind, TraceThread::kCompute, begin_ns, begin_ns, 0, bytes, peer, {}});
  }

  void note_done() {
    is_done_ = true;
    const std::int64_t now_ns = Trace::now_ns();
    for (TraceEvent& side : sides_) {
      side.end_ns = now_ns;
      trace_.record(side);
    }
  }

  Ticket inner_;
  Trace& trace_;
  std::vector<TraceEvent> sides_;
  bool is_done_ = false;
};

class TracedSum final : public PendingSum {
 public:
  explicit TracedSum(std::unique_ptr<PendingSum> inner) : inner_(std::move(inner)) {}
  std::int64_t get() override {
    const TraceSpan span(SpanKind::kWait, "for all ranks");
    return inner_->get();
  }

 private:
  std::unique_ptr<PendingSum> inner_;
};

}  // namespace

Ticket trace_transfers(Ticket inner, std::span<const Transfer> transfers, std::int64_t begin_ns, Trace& trace) {
  return Ticket(std::make_unique<TracedTransfers>(std::move(inner), transfers, begin_ns, trace));
}

void TracedTransport::barrier() {
  const TraceSpan span(SpanKind::kWait, "for all ranks");
  inner_.barrier();
}

void TracedTransport::all_reduce(std::span<double> values, ReduceOp op) {
  const TraceSpan span(SpanKind::kWait, "for all ranks");
  inner_.all_reduce(values, op);
}

void TracedTransport::all_reduce(std::span<std::int64_t> values, ReduceOp op) {
  const TraceSpan span(SpanKind::kWait, "for all ranks");
  inner_.all_reduce(values, op);
}

void TracedTransport::broadcast(std::string& text, int root) {
  const TraceSpan span(SpanKind::kWait, "for all ranks");
  inner_.broadcast(text, root);
}

Ticket TracedTransport::exchange(const Transfer& transfer) {
  return exchange_all({&transfer, 1});
}

Ticket TracedTransport::exchange_all(std::span<const Transfer> transfers) {
  const std::int64_t begin_ns = Trace::now_ns();
  Ticket inner = inner_.exchange_all(transfers);
  for (const Transfer& transfer : transfers) sent_bytes_ += transfer.send.size();
  return trace_transfers(std::move(inner), transfers, begin_ns, trace_);
}

std::unique_ptr<PendingSum> TracedTransport::start_sum(std::int64_t value) {
  return std::make_unique<TracedSum>(inner_.start_sum(value));
}

}  // namespace ringscan
