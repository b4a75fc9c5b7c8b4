#include "engine/linear_pass.hpp"

#include <algorithm>
#include <utility>

#include "engine/linear_scan.hpp"

namespace ringscan {
namespace {

/// Recursive doubling, several states under way at once.
class LogarithmicPass final : public ParallelLinearPass {
 public:
  using ParallelLinearPass::ParallelLinearPass;

 private:
  /// How far one group's scan is.
  struct Scan {
    LinearState incoming;
    std::size_t started = 0;
    bool is_moving = false;
    Ticket moving;
    Wire wire;
  };

  void start_scan(std::size_t group) override {
    Scan& scan = scans_.emplace_back();
    if (!is_first_) scan.incoming = new_state(group);
    // The transport's launch is under way while the device sums up; without it the host fetches the sum.
    if (has_queue_ && !in_queue_) compute_to_end(*this);
    timed(result_.exposed_seconds, [&] { move_on(); });
  }

  bool is_done(const Scan& scan) const { return scan.started == schedule_.size() && !scan.is_moving; }

  void settle(std::size_t group) {
    Scan& scan = scans_[group];
    scan.is_moving = false;
    scan.moving = Ticket();
    if (schedule_[scan.started - 1].recv_from < 0) return;
    arrive(scan.wire, scan.incoming);
    kernels_.join(shares_[group].before, scan.incoming);
    if (sends_) kernels_.join(shares_[group].through, scan.incoming);
  }

  /// Transfers between two ranks match in the order they start: a state is never further in its steps than the one
  /// before it, on any rank.
  void move_on() override {
    std::size_t most_started = schedule_.size();
    for (std::size_t group = 0; group < scans_.size(); ++group) {
      Scan& scan = scans_[group];
      if (scan.is_moving && scan.moving.poll()) settle(group);
      while (!scan.is_moving && scan.started < most_started) {
        const ScanStep& step = schedule_[scan.started++];
        scan.moving = start(step.send_to, &shares_[group].through, step.recv_from, &scan.incoming, scan.wire);
        scan.is_moving = true;
        if (scan.moving.poll()) settle(group);
      }
      most_started = scan.started;
    }
  }

  /// Through all its steps, those that only send among them: in a queue an output takes the whole device, and a
  /// transfer that comes behind its launch would find no place until it ends.
  void wait_for(std::size_t group) override {
    // What a queue waits for is counted there.
    const AddSeconds adder(in_queue_ ? result_.compute_seconds : result_.exposed_seconds);
    for (move_on(); !is_done(scans_[group]); move_on()) {
      const auto moving = std::find_if(scans_.begin(), scans_.end(), [](const Scan& scan) { return scan.is_moving; });
      if (!in_queue_) {
        moving->moving.wait();
        continue;
      }
      moving->moving.order();
      ordered_.push_back(std::move(moving->moving));
      settle(static_cast<std::size_t>(moving - scans_.begin()));
    }
  }

  std::vector<Scan> scans_;
};

/// Each state to all ranks behind at once, in a device's queue: one launch, where doubling has one after the other and
/// the host between them.
class DirectPass final : public ParallelLinearPass {
 public:
  using ParallelLinearPass::ParallelLinearPass;

 private:
  struct Scan {
    std::vector<LinearState> incoming;  ///< nearest first
    Ticket moving;
  };

  void start_scan(std::size_t group) override {
    Scan& scan = scans_.emplace_back();
    const std::vector<Transfer> transfers = make_transfers(shares_[group], scan);
    if (transfers.empty()) return;
    // The transport's launch is under way while the device sums up.
    timed(result_.compute_seconds, [&] { scan.moving = transport_.exchange_all(transfers); });
  }

  std::vector<Transfer> make_transfers(const Share& share, Scan& scan) {
    std::vector<Transfer> transfers;
    for (const ScanStep& step : schedule_) {
      Transfer& transfer = transfers.emplace_back();
      if (step.send_to >= 0) {
        transfer.to_rank = step.send_to;
        transfer.send = share.through.data.bytes();
        result_.sent_bytes += transfer.send.size();
      }
      if (step.recv_from < 0) continue;
      LinearState& incoming = scan.incoming.emplace_back();
      incoming.shape = share.before.shape;
      incoming.data = Buffer(share.before.data.size_bytes(), nullptr, kernels_.memory());
      transfer.from_rank = step.recv_from;
      transfer.receive = incoming.data.bytes();
    }
    return transfers;
  }

  void wait_for(std::size_t group) override {
    Scan& scan = scans_[group];
    // What the queue waits for is counted there.
    timed(result_.compute_seconds, [&] { scan.moving.order(); });
    ordered_.push_back(std::move(scan.moving));
    if (!is_first_) kernels_.fold(shares_[group].before, scan.incoming);
  }

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
  const bool by_device = transport.carries_in_queue(kernels.memory());
  const auto ranks = static_cast<int>(scan_participants(*task.layout).size());
  switch (linear_scan_kind(task.reproducible, by_device, ranks, kernels.state_bytes(shape))) {
    case ScanKind::kSerial:
      return SerialPass(task, transport, kernels, ledger, on_progress).run();
    case ScanKind::kDirect:
      return DirectPass(ScanKind::kDirect, task, transport, kernels, ledger, on_progress).run();
    case ScanKind::kLogarithmic:
      break;
  }
  return LogarithmicPass(ScanKind::kLogarithmic, task, transport, kernels, ledger, on_progress).run();
}

}  // namespace ringscan
