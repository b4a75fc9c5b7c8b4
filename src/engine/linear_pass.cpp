#include "engine/linear_pass.hpp"

#include <algorithm>
#include <utility>

#include "comm/scan_schedule.hpp"
#include "core/stopwatch.hpp"

namespace ringscan {
namespace {

/// What both ways of scanning share: one state a group of slots, and how it goes over this rank's tokens.
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

/// Recursive doubling, several states under way at once.
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
    for (std::size_t group = 0; group < groups_.count(); ++group) add_scan(group);
    for (std::size_t group = 0; group < groups_.count(); ++group) {
      Scan& scan = scans_[group];
      wait_for(group);
      advance(group, scan.before, &scan.summary, true, *this);
      keep_final(std::move(scan.before));
      scan.before = LinearState{};
      scan.summary = Buffer();
    }
    end();
    result_.steps_taken = static_cast<int>(schedule_.size());
    return std::move(result_);
  }

 private:
  /// One group's scan: the states of ScanStep's text, and how far it is.
  struct Scan {
    Buffer summary;
    LinearState before;
    LinearState through;
    LinearState incoming;
    std::size_t started = 0;
    bool is_moving = false;
    Ticket moving;
    Wire wire;
  };

  void add_scan(std::size_t group) {
    Scan scan;
    scan.before = is_first_ ? initial_state(group) : new_state(group);
    // Whoever receives waits for what others sum up: it may as well, if its output begins with that anyway.
    if (sends_ || (kernels_.keeps_summaries() && !is_first_)) {
      scan.through = is_first_ ? initial_state(group) : new_state(group);
      advance(group, scan.through, &scan.summary, false, *this);
    }
    if (!is_first_) scan.incoming = new_state(group);
    scans_.push_back(std::move(scan));
    // The transport's launch is under way while the device sums up; without it the host fetches the sum.
    if (has_queue_ && !in_queue_) compute_to_end(*this);
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

  /// Does what can be done without waiting. Transfers between two ranks match in the order they start: a state is never
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

  /// Through all its steps, those that only send among them: in a queue an output takes the whole device, and a
  /// transfer that comes behind its launch would find no place until it ends.
  void wait_for(std::size_t group) {
    // What a queue waits for is counted there, see end().
    const AddSeconds adder(in_queue_ ? result_.compute_seconds : result_.exposed_seconds);
    for (move_on(); !is_done(scans_[group]); move_on()) {
      const auto moving = std::find_if(scans_.begin(), scans_.end(), [](const Scan& scan) { return scan.is_moving; });
      if (!in_queue_) {
        moving->moving.wait();
        continue;
      }
      moving->moving.order();
      ordered_.push_back(std::move(moving->moving));
      settle(*moving);
    }
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

  ScanSchedule schedule_;
  bool sends_ = false;
  bool has_queue_ = kernels_.memory().work_queue() != nullptr;
  bool in_queue_ = has_queue_ && transport_.carries(kernels_.memory());
  std::vector<Scan> scans_;
  std::vector<Ticket> ordered_;  // the queue waits for them; a failure shows here alone
  double beat_seconds_ = 0.0;
};

/// Each state to all ranks behind at once, in a device's queue: one launch, where doubling has one after the other and
/// the host between them.
class DirectPass final : public LinearPass, private Heartbeat {
 public:
  using LinearPass::LinearPass;

  RingPassResult run() {
    if (!has_tokens_) {
      pass_initial_on();
      return result_;
    }
    schedule_ = make_scan_schedule(ScanKind::kDirect, *task_.layout, transport_.rank());
    scans_.resize(groups_.count());
    for (std::size_t group = 0; group < groups_.count(); ++group) add_scan(group, scans_[group]);
    for (std::size_t group = 0; group < groups_.count(); ++group) {
      Scan& scan = scans_[group];
      // What the queue waits for is counted there, see end().
      timed(result_.compute_seconds, [&] { scan.moving.order(); });
      if (!is_first_) kernels_.fold(scan.before, scan.incoming);
      advance(group, scan.before, &scan.summary, true, *this);
      keep_final(std::move(scan.before));
      scan.before = LinearState{};
      scan.summary = Buffer();
    }
    end();
    result_.steps_taken = static_cast<int>(schedule_.size());
    return std::move(result_);
  }

 private:
  struct Scan {
    Buffer summary;
    LinearState before;
    LinearState through;                ///< this rank's own tokens; of the first, what stood before them, too
    std::vector<LinearState> incoming;  ///< nearest first
    Ticket moving;
  };

  void add_scan(std::size_t group, Scan& scan) {
    scan.before = is_first_ ? initial_state(group) : new_state(group);
    const bool sends =
        std::any_of(schedule_.begin(), schedule_.end(), [](const ScanStep& s) { return s.send_to >= 0; });
    // Whoever receives waits for what others sum up: it may as well, if its output begins with that anyway.
    if (sends || (kernels_.keeps_summaries() && !is_first_)) {
      scan.through = is_first_ ? initial_state(group) : new_state(group);
      advance(group, scan.through, &scan.summary, false, *this);
    }
    const std::vector<Transfer> transfers = make_transfers(scan);
    if (transfers.empty()) return;
    // The transport's launch is under way while the device sums up.
    timed(result_.compute_seconds, [&] { scan.moving = transport_.exchange_all(transfers); });
  }

  std::vector<Transfer> make_transfers(Scan& scan) {
    std::vector<Transfer> transfers;
    for (const ScanStep& step : schedule_) {
      Transfer& transfer = transfers.emplace_back();
      if (step.send_to >= 0) {
        transfer.to_rank = step.send_to;
        transfer.send = std::as_const(scan.through.data).bytes();
        result_.sent_bytes += transfer.send.size();
      }
      if (step.recv_from < 0) continue;
      LinearState& incoming = scan.incoming.emplace_back();
      incoming.shape = scan.before.shape;
      incoming.data = Buffer(scan.before.data.size_bytes(), nullptr, kernels_.memory());
      transfer.from_rank = step.recv_from;
      transfer.receive = incoming.data.bytes();
    }
    return transfers;
  }

  // A device computes meanwhile.
  void beat() override {
    for (Scan& scan : scans_) scan.moving.poll();  // where a rank has failed, the queue may stand still
  }

  void end() {
    compute_to_end(*this);
    timed(result_.exposed_seconds, [&] {
      for (Scan& scan : scans_) scan.moving.wait();
    });
    const double waited = transport_.take_queue_seconds();
    result_.compute_seconds -= waited;
    result_.exposed_seconds += waited;
  }

  ScanSchedule schedule_;
  std::vector<Scan> scans_;
};

/// From rank to rank, each state in place; the next rank has one group while this one has the next.
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
    std::vector<Wire> wires(groups_.count());
    for (std::size_t group = 0; group < groups_.count(); ++group) {
      states.push_back(is_first_ ? initial_state(group) : new_state(group));
    }
    for (std::size_t group = 0; group < groups_.count(); ++group) {
      arriving.push_back(start(-1, nullptr, recv_from, &states[group], wires[group]));
    }
    Heartbeat heartbeat;
    for (std::size_t group = 0; group < groups_.count(); ++group) {
      timed(result_.exposed_seconds, [&] { arriving[group].wait(); });
      if (recv_from >= 0) arrive(wires[group], states[group]);
      advance(group, states[group], nullptr, true, heartbeat);
      leaving.push_back(start(send_to, &states[group], -1, nullptr, wires[group]));
    }
    compute_to_end(heartbeat);
    timed(result_.exposed_seconds, [&] {
      for (Ticket& ticket : leaving) ticket.wait();
    });
    for (LinearState& state : states) keep_final(std::move(state));
    result_.steps_taken = static_cast<int>(schedule.size());
    return std::move(result_);
  }
};

}  // namespace

std::vector<LinearState> StateGroups::make_states(LinearShape shape, const LinearKernels& kernels,
                                                  MemoryLedger* ledger) const {
  std::vector<LinearState> states(count());
  for (std::size_t group = 0; group < states.size(); ++group) {
    shape.slots = static_cast<std::int64_t>(size(group));
    kernels.make(states[group], shape, ledger);
  }
  return states;
}

int state_owner(const SequenceLayout& layout) {
  const std::vector<int> ranks = scan_participants(layout);
  return ranks.empty() ? 0 : ranks.back();
}

ScanKind linear_scan_kind(bool reproducible, bool by_device, int ranks, std::size_t state_bytes) {
  // Receiving all takes (P - 1) states' time, doubling log2 P launches besides, of about 80 us and as many bytes as go
  // over NVLink meanwhile.
  constexpr int kMostRanks = 16;
  if (reproducible) return ScanKind::kSerial;
  const auto others = static_cast<std::size_t>(std::max(0, ranks - 1));
  return by_device && ranks <= kMostRanks && others * state_bytes <= kMostDirectBytes ? ScanKind::kDirect
                                                                                      : ScanKind::kLogarithmic;
}

RingPassResult run_linear_pass(const LinearPassTask& task, Transport& transport, const LinearKernels& kernels,
                               MemoryLedger* ledger, const PassProgress& on_progress) {
  const LinearShape shape{task.k.shape[0],
                          static_cast<std::int64_t>(std::min(task.slots.size(), kernels.slots_a_state())),
                          task.k.shape[3], task.v.shape[3], task.params.normalizer == Normalizer::kZ};
  const bool by_device = kernels.memory().work_queue() != nullptr && transport.carries(kernels.memory());
  const auto ranks = static_cast<int>(scan_participants(*task.layout).size());
  switch (linear_scan_kind(task.reproducible, by_device, ranks, kernels.state_bytes(shape))) {
    case ScanKind::kSerial:
      return SerialPass(task, transport, kernels, ledger, on_progress).run();
    case ScanKind::kDirect:
      return DirectPass(task, transport, kernels, ledger, on_progress).run();
    case ScanKind::kLogarithmic:
      break;
  }
  return LogarithmicPass(task, transport, kernels, ledger, on_progress).run();
}

}  // namespace ringscan
