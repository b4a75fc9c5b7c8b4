#include "comm/traced_transport.hpp"

#include <optional>
#include <string>

namespace ringscan {
namespace {

class TracedTransfer final : public Ticket::Impl {
 public:
  TracedTransfer(Ticket inner, const Transfer& transfer, std::int64_t begin_ns, Trace& trace)
      : inner_(std::move(inner)), trace_(trace) {
    if (transfer.to_rank >= 0) sent_ = side(SpanKind::kSend, transfer.to_rank, transfer.send.size(), begin_ns);
    if (transfer.from_rank >= 0) {
      received_ = side(SpanKind::kReceive, transfer.from_rank, transfer.receive.size(), begin_ns);
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
      const TraceSpan span(SpanKind::kWait, received_ ? "for rank " + std::to_string(received_->peer) : "");
      inner_.wait();
    }
    note_done();
  }

  // On a device the queue waits, not the rank.
  void order() override { inner_.order(); }

  // The inner ticket, too, sees that an exception unwinds, and gives up.
  void abandon() override { inner_ = Ticket(); }

 private:
  static std::optional<TraceEvent> side(SpanKind kind, int peer, std::size_t bytes, std::int64_t begin_ns) {
    if (bytes == 0) return std::nullopt;
    return TraceEvent{kind, TraceThread::kCompute, begin_ns, begin_ns, 0, bytes, peer, {}};
  }

  void note_done() {
    is_done_ = true;
    const std::int64_t now_ns = Trace::now_ns();
    for (std::optional<TraceEvent>* side : {&sent_, &received_}) {
      if (!*side) continue;
      (*side)->end_ns = now_ns;
      trace_.record(**side);
    }
  }

  Ticket inner_;
  Trace& trace_;
  std::optional<TraceEvent> sent_;
  std::optional<TraceEvent> received_;
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

Ticket trace_transfer(Ticket inner, const Transfer& transfer, std::int64_t begin_ns, Trace& trace) {
  return Ticket(std::make_unique<TracedTransfer>(std::move(inner), transfer, begin_ns, trace));
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
  const std::int64_t begin_ns = Trace::now_ns();
  Ticket inner = inner_.exchange(transfer);
  sent_bytes_ += transfer.send.size();
  return trace_transfer(std::move(inner), transfer, begin_ns, trace_);
}

std::unique_ptr<PendingSum> TracedTransport::start_sum(std::int64_t value) {
  return std::make_unique<TracedSum>(inner_.start_sum(value));
}

}  // namespace ringscan
