#include "engine/linear_pass.hpp"

#include <algorithm>
#include <utility>

#include "comm/scan_schedule.hpp"
#include "core/stopwatch.hpp"

namespace ringscan {
namespace {

/// What both ways of scanning share: one state a slot, and how it goes over this rank's tokens.
class LinearPass {
 public:
  LinearPass(const LinearPassTask& task, Transport& transport, const LinearKernels& kernels, MemoryLedger* ledger,
             const PassProgress& on_progress)
      : task_(task), transport_(transport), kernels_(kernels), ledger_(ledger), on_progress_(on_progress) {
    const std::vector<int> ranks = scan_participants(*task.layout);
    has_tokens_ = task.layout->local_tokens(transport.rank()) > 0;
    is_first_ = has_tokens_ && ranks.front() == transport.rank();
  }

 protected:
  std::size_t num_slots() const { return task_.slots.size(); }
  bool is_owner() const { return state_owner(*task_.layout) == transport_.rank(); }

  LinearState new_state() const {
    LinearState state;
    kernels_.make(state,
                  {task_.k.shape[0], 1, task_.k.shape[3], task_.v.shape[3], task_.params.normalizer == Normalizer::kZ},
                  ledger_);
    return state;
  }
  /// What stands before the first token.
  LinearState initial_state(std::size_t slot) const {
    LinearState state = new_state();
    if (task_.initial.empty()) return state;
    // Joined to the identity, it is itself: wherever states lie.
    kernels_.join(state, task_.initial[slot]);
    return state;
  }

  void advance(std::size_t slot, LinearState& state, bool with_output, Heartbeat& heartbeat) {
    LinearTask task;
    task.q = task_.q;
    task.k = task_.k;
    task.v = task_.v;
    task.slots = task_.slots.subspan(slot, 1);
    task.log_decay = task_.log_decay;
    if (task_.params.decay == Decay::kToken) task.decay_columns = task_.decay_columns.subspan(slot, 1);
    if (task_.params.decay == Decay::kHead) task.head_log_decay = task_.head_log_decay.subspan(slot, 1);
    task.scale = task_.scale;
    if (with_output) task.o = task_.o;
    timed(result_.compute_seconds, SpanKind::kCompute, [&] { kernels_.advance(task, task_.params, state, heartbeat); });
    if (!with_output) return;
    const auto tokens = static_cast<double>(task_.k.shape[0] * task_.k.shape[1]);
    result_.flops +=
        linear_output_flops(tokens, static_cast<double>(task_.k.shape[3]), static_cast<double>(task_.v.shape[3]));
    if (on_progress_) on_progress_(static_cast<double>(slot + 1) / static_cast<double>(num_slots()));
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
    for (std::size_t slot = 0; slot < num_slots(); ++slot) keep_final(initial_state(slot));
  }

  const LinearPassTask& task_;
  Transport& transport_;
  const LinearKernels& kernels_;
  MemoryLedger* ledger_;
  const PassProgress& on_progress_;
  bool has_tokens_ = false;
  bool is_first_ = false;
  RingPassResult result_;
};

/// Recursive doubling, several slots under way at once.
class LogarithmicPass final : public LinearPass, private Heartbeat {
 public:
  using LinearPass::LinearPass;

  RingPassResult run() {
    if (!has_tokens_) {
      pass_initial_on();
      return result_;
    }
    schedule_ = make_scan_schedule(ScanKind::kLogarithmic, *task_.layout, transport_.rank());
    sends_ = std::any_of(schedule_.begin(), schedule_.end(), [](const ScanStep& step) { return step.send_to >= 0; });
    for (std::size_t slot = 0; slot < num_slots(); ++slot) add_scan(slot);
    for (std::size_t slot = 0; slot < num_slots(); ++slot) {
      LinearState& before = scans_[slot].before;
      wait_for(slot);
      advance(slot, before, true, *this);
      keep_final(std::move(before));
      before = LinearState{};
    }
    for (std::size_t slot = 0; slot < num_slots(); ++slot) wait_for(slot);
    result_.steps_taken = static_cast<int>(schedule_.size());
    result_.compute_seconds -= beat_seconds_;
    result_.exposed_seconds += beat_seconds_;
    return std::move(result_);
  }

 private:
  /// One slot's scan: the states of ScanStep's text, and how far it is.
  struct Scan {
    LinearState before;
    LinearState through;
    LinearState incoming;
    std::size_t started = 0;
    bool is_moving = false;
    Ticket moving;
    Wire wire;
  };

  void add_scan(std::size_t slot) {
    Scan scan;
    scan.before = is_first_ ? initial_state(slot) : new_state();
    if (sends_) {
      scan.through = is_first_ ? initial_state(slot) : new_state();
      advance(slot, scan.through, false, *this);
    }
    if (!is_first_) scan.incoming = new_state();
    scans_.push_back(std::move(scan));
    timed(result_.exposed_seconds, [&] { move_on(); });
  }

  bool is_done(const Scan& scan) const { return scan.started == schedule_.size() && !scan.is_moving; }

  void settle(Scan& scan) {
    scan.is_moving = false;
    scan.moving = Ticket();
    if (schedule_[scan.started - 1].recv_from >= 0) {
      arrive(scan.wire, scan.incoming);
      kernels_.join(scan.before, scan.incoming);
      if (sends_) kernels_.join(scan.through, scan.incoming);
    }
  }

  /// Does what can be done without waiting. Transfers between two ranks match in the order they start: a slot is never
  /// further in its steps than the one before it, on any rank.
  void move_on() {
    std::size_t most_started = schedule_.size();
    for (Scan& scan : scans_) {
      if (scan.is_moving && scan.moving.poll()) settle(scan);
      while (!scan.is_moving && scan.started < most_started) {
        const ScanStep& step = schedule_[scan.started++];
        scan.moving = start(step.send_to, &scan.through, step.recv_from, &scan.incoming, scan.wire);
        scan.is_moving = true;
        if (scan.moving.poll()) settle(scan);
      }
      most_started = scan.started;
    }
  }

  void wait_for(std::size_t slot) {
    const AddSeconds adder(result_.exposed_seconds);
    for (move_on(); !is_done(scans_[slot]); move_on()) {
      const auto moving = std::find_if(scans_.begin(), scans_.end(), [](const Scan& scan) { return scan.is_moving; });
      moving->moving.wait();
    }
  }

  void beat() override {
    const AddPollingSeconds adder(beat_seconds_);
    move_on();
  }

  ScanSchedule schedule_;
  bool sends_ = false;
  std::vector<Scan> scans_;
  double beat_seconds_ = 0.0;
};

/// From rank to rank, each state in place; the next rank has one slot while this one has the next.
class SerialPass final : public LinearPass {
 public:
  using LinearPass::LinearPass;

  RingPassResult run() {
    if (!has_tokens_) {
      pass_initial_on();
      return result_;
    }
    const ScanSchedule schedule = make_scan_schedule(ScanKind::kSerial, *task_.layout, transport_.rank());
    const int recv_from = schedule.empty() ? -1 : schedule.front().recv_from;
    const int send_to = schedule.empty() ? -1 : schedule.back().send_to;
    std::vector<LinearState> states;
    std::vector<Ticket> arriving, leaving;
    std::vector<Wire> wires(num_slots());
    for (std::size_t slot = 0; slot < num_slots(); ++slot) {
      states.push_back(is_first_ ? initial_state(slot) : new_state());
    }
    for (std::size_t slot = 0; slot < num_slots(); ++slot) {
      arriving.push_back(start(-1, nullptr, recv_from, &states[slot], wires[slot]));
    }
    Heartbeat heartbeat;
    for (std::size_t slot = 0; slot < num_slots(); ++slot) {
      timed(result_.exposed_seconds, [&] { arriving[slot].wait(); });
      if (recv_from >= 0) arrive(wires[slot], states[slot]);
      advance(slot, states[slot], true, heartbeat);
      leaving.push_back(start(send_to, &states[slot], -1, nullptr, wires[slot]));
    }
    timed(result_.exposed_seconds, [&] {
      for (Ticket& ticket : leaving) ticket.wait();
    });
    for (LinearState& state : states) keep_final(std::move(state));
    result_.steps_taken = static_cast<int>(schedule.size());
    return std::move(result_);
  }
};

}  // namespace

int state_owner(const SequenceLayout& layout) {
  const std::vector<int> ranks = scan_participants(layout);
  return ranks.empty() ? 0 : ranks.back();
}

RingPassResult run_linear_pass(const LinearPassTask& task, Transport& transport, const LinearKernels& kernels,
                               MemoryLedger* ledger, const PassProgress& on_progress) {
  if (task.reproducible) return SerialPass(task, transport, kernels, ledger, on_progress).run();
  return LogarithmicPass(task, transport, kernels, ledger, on_progress).run();
}

}  // namespace ringscan
