#pragma once
// What the ways of scanning the states of linear attention over the ranks share; linear_pass.cpp has the ways.

#include <algorithm>
#include <utility>
#include <vector>

#include "comm/scan_schedule.hpp"
#include "core/stopwatch.hpp"
#include "engine/linear_pass.hpp"

namespace ringscan {

/// One state a group of slots, and how it goes over this rank's tokens.
class LinearPass {
 public:
  LinearPass(const LinearPassTask& task, Transport& transport, const LinearKernels& kernels, MemoryLedger* ledger,
             const PassProgress& on_progress)
      : task_(task),
        transport_(transport),
        kernels_(kernels),
        ledger_(ledger),
        on_progress_(on_progress),
        groups_(task.slots.size(), kernels) {
    const std::vector<int> ranks = scan_participants(*task.layout);
    has_tokens_ = task.layout->local_tokens(transport.rank()) > 0;
    is_first_ = has_tokens_ && ranks.front() == transport.rank();
  }

 protected:
  bool is_owner() const { return state_owner(*task_.layout) == transport_.rank(); }

  LinearState new_state(std::size_t group) const {
    LinearState state;
    kernels_.make(state,
                  {task_.k.shape[0], static_cast<std::int64_t>(groups_.size(group)), task_.k.shape[3], task_.v.shape[3],
                   task_.params.normalizer == Normalizer::kZ},
                  ledger_);
    return state;
  }
  /// What stands before the first token.
  LinearState initial_state(std::size_t group) const {
    LinearState state = new_state(group);
    if (task_.initial.empty()) return state;
    // Joined to the identity, it is itself: wherever states lie.
    kernels_.join(state, task_.initial[group]);
    return state;
  }

  void advance(std::size_t group, LinearState& state, Buffer* summary, bool with_output, Heartbeat& heartbeat) {
    LinearTask task;
    task.q = task_.q;
    task.k = task_.k;
    task.v = task_.v;
    task.slots = groups_.of(group, task_.slots);
    task.log_decay = task_.log_decay;
    if (task_.params.decay == Decay::kToken) task.decay_columns = groups_.of(group, task_.decay_columns);
    if (task_.params.decay == Decay::kHead) task.head_log_decay = groups_.of(group, task_.head_log_decay);
    task.scale = task_.scale;
    task.summary = summary;
    if (with_output) task.o = task_.o;
    timed(result_.compute_seconds, SpanKind::kCompute, [&] { kernels_.advance(task, task_.params, state, heartbeat); });
    if (!with_output) return;
    const auto rows = static_cast<double>(task_.k.shape[0] * task_.k.shape[1]) * static_cast<double>(task.slots.size());
    result_.flops +=
        linear_output_flops(rows, static_cast<double>(task_.k.shape[3]), static_cast<double>(task_.v.shape[3]));
    if (on_progress_) on_progress_(static_cast<double>(group + 1) / static_cast<double>(groups_.count()));
  }

  /// What a device has in hand is through.
  void compute_to_end(Heartbeat& heartbeat) {
    timed(result_.compute_seconds, SpanKind::kCompute, [&] { kernels_.settle(heartbeat); });
  }

  /// The host's side of a state that lies elsewhere; unused where the transport carries states as they lie.
  struct Wire {
    Buffer sent;
    Buffer received;
  };

  Ticket start(int send_to, const LinearState* sent, int recv_from, LinearState* received, Wire& wire) {
    MemorySpace& space = kernels_.memory();
    Transfer transfer;
    if (send_to >= 0) {
      transfer.to_rank = send_to;
      transfer.send = std::as_const(sent->data).bytes();
      if (!transport_.carries(space)) {
        wire.sent = Buffer(sent->data.size_bytes(), ledger_);
        space.copy_out(wire.sent.data(), sent->data.data(), wire.sent.size_bytes());
        transfer.send = std::as_const(wire.sent).bytes();
      }
      result_.sent_bytes += transfer.send.size();
    }
    if (recv_from >= 0) {
      transfer.from_rank = recv_from;
      if (!transport_.carries(space)) wire.received = Buffer(received->data.size_bytes(), ledger_);
      transfer.receive = transport_.carries(space) ? received->data.bytes() : wire.received.bytes();
    }
    return transport_.exchange(transfer);
  }
  /// Behind the ticket of a start() that receives.
  void arrive(const Wire& wire, LinearState& received) {
    MemorySpace& space = kernels_.memory();
    if (!transport_.carries(space))
      space.copy_in(received.data.data(), wire.received.data(), received.data.size_bytes());
  }

  void keep_final(LinearState state) {
    if (task_.final_states != nullptr && is_owner()) task_.final_states->push_back(std::move(state));
  }
  /// No rank has a token: what stands behind the sequence is what stood before it.
  void pass_initial_on() {
    for (std::size_t group = 0; group < groups_.count(); ++group) keep_final(initial_state(group));
  }

  const LinearPassTask& task_;
  Transport& transport_;
  const LinearKernels& kernels_;
  MemoryLedger* ledger_;
  const PassProgress& on_progress_;
  StateGroups groups_;
  bool has_tokens_ = false;
  bool is_first_ = false;
  RingPassResult result_;
};

/// Each rank sums its tokens up, the sums are scanned over the ranks, then comes the output, which goes on from the
/// summary; group by group.
class ParallelLinearPass : public LinearPass, protected Heartbeat {
 public:
  ParallelLinearPass(ScanKind kind, const LinearPassTask& task, Transport& transport, const LinearKernels& kernels,
                     MemoryLedger* ledger, const PassProgress& on_progress)
      : LinearPass(task, transport, kernels, ledger, on_progress),
        schedule_(make_scan_schedule(kind, *task.layout, transport.rank())) {
    sends_ = std::any_of(schedule_.begin(), schedule_.end(), [](const ScanStep& step) { return step.send_to >= 0; });
  }

  RingPassResult run() {
    if (!has_tokens_) {
      pass_initial_on();
      return result_;
    }
    shares_.resize(groups_.count());
    for (std::size_t group = 0; group < groups_.count(); ++group) {
      sum_up(group);
      start_scan(group);
    }
    for (std::size_t group = 0; group < groups_.count(); ++group) {
      wait_for(group);
      Share& share = shares_[group];
      advance(group, share.before, &share.summary, true, *this);
      keep_final(std::move(share.before));
      share.before = LinearState{};
      share.summary = Buffer();
    }
    end();
    result_.steps_taken = static_cast<int>(schedule_.size());
    return std::move(result_);
  }

 protected:
  /// One group's: the states of ScanStep's text.
  struct Share {
    Buffer summary;
    LinearState before;
    LinearState through;
  };

  /// shares_[group].through is summed up, or queued.
  virtual void start_scan(std::size_t group) = 0;
  /// Until shares_[group].before is there, or the queue waits for it; then ordered_ has the transfers.
  virtual void wait_for(std::size_t group) = 0;
  /// Does what can be done without waiting.
  virtual void move_on() {}

  ScanSchedule schedule_;
  bool sends_ = false;
  bool has_queue_ = kernels_.memory().work_queue() != nullptr;
  bool in_queue_ = transport_.carries_in_queue(kernels_.memory());
  std::vector<Share> shares_;
  std::vector<Ticket> ordered_;  // the queue waits for them; a failure shows here alone

 private:
  void sum_up(std::size_t group) {
    Share& share = shares_[group];
    share.before = is_first_ ? initial_state(group) : new_state(group);
    // Whoever receives waits for what others sum up: it may as well, if its output begins with that anyway.
    if (!sends_ && (!kernels_.keeps_summaries() || is_first_)) return;
    share.through = is_first_ ? initial_state(group) : new_state(group);
    advance(group, share.through, &share.summary, false, *this);
  }

  void beat() override {
    const AddPollingSeconds adder(beat_seconds_);
    for (Ticket& ticket : ordered_) ticket.poll();  // where a rank has failed, the queue may stand still
    move_on();
  }

  void end() {
    compute_to_end(*this);
    timed(result_.exposed_seconds, [&] {
      for (Ticket& ticket : ordered_) ticket.wait();
    });
    // A device computes while its rank looks at transfers.
    const double waited = has_queue_ ? transport_.take_queue_seconds() : beat_seconds_;
    result_.compute_seconds -= waited;
    result_.exposed_seconds += waited;
  }

  double beat_seconds_ = 0.0;
};

}  // namespace ringscan
