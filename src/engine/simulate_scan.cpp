#include "engine/simulate_scan.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

namespace ringscan {
namespace {

class ScanSimulation {
 public:
  ScanSimulation(const SimulatedScan& scan, SimulatedRanks& ranks)
      : scan_(scan),
        ranks_(ranks),
        world_(ranks.size()),
        schedules_(make_scan_schedules(scan.kind, *scan.layout)),
        output_(scan.output_seconds),
        state_(scan.state_seconds) {
    output_.resize(ranks.clock.size());
    state_.resize(ranks.clock.size());
    for (const ScanSchedule& schedule : schedules_) steps_ = std::max(steps_, schedule.size());
  }

  void run() {
    if (scan_.kind == ScanKind::kSerial) {
      run_serial();
    } else {
      run_in_parallel();
    }
    ranks_.steps_taken += static_cast<int>(steps_);
  }

 private:
  /// A moment and what led to it.
  struct Moment {
    double at = 0.0;
    Chain chain;
  };

  std::size_t place(int rank) const { return static_cast<std::size_t>(rank); }

  void run_in_parallel() {
    std::vector<std::vector<Moment>> arrived;  // by slot: the state that stands before each rank
    for (int slot = 0; slot < scan_.slots; ++slot) {
      ranks_.pass_compute(state_);
      std::vector<Moment> moments(ranks_.clock.size());
      for (std::size_t rank = 0; rank < moments.size(); ++rank)
        moments[rank] = {ranks_.clock[rank], ranks_.chain[rank]};
      if (scan_.kind == ScanKind::kDirect) {
        moments = walk_at_once(moments);
      } else {
        for (std::size_t step = 0; step < steps_; ++step) moments = walk_step(step, moments);
      }
      arrived.push_back(std::move(moments));
    }
    for (const std::vector<Moment>& moments : arrived) {
      for (std::size_t rank = 0; rank < moments.size(); ++rank) wait_until(moments[rank], rank);
      ranks_.pass_compute(output_);
    }
  }

  /// Flows that leave a node at once where ranks send as far as this.
  int flows(int from, int to) const { return std::min(std::abs(to - from), ranks_.shape.ranks_per_node); }

  std::vector<Moment> walk_step(std::size_t step, const std::vector<Moment>& begun) {
    std::vector<Moment> done = begun;
    for (int rank = 0; rank < world_; ++rank) {
      if (step >= schedules_[place(rank)].size()) continue;
      const int from = schedules_[place(rank)][step].recv_from;
      if (from < 0) continue;
      const double seconds = ranks_.shape.transfer_seconds(from, rank, scan_.state_bytes, flows(from, rank));
      ranks_.count_bytes(from, rank, scan_.state_bytes);
      const int later = begun[place(from)].at > begun[place(rank)].at ? from : rank;
      Moment end = begun[place(later)];
      end.at += seconds;
      end.chain.hops += later == rank ? 0 : 1;
      (ranks_.shape.node_of(from) == ranks_.shape.node_of(rank) ? end.chain.inside : end.chain.between) += seconds;
      // Both sides are through then.
      if (end.at > done[place(rank)].at) done[place(rank)] = end;
      if (end.at > done[place(from)].at) done[place(from)] = end;
    }
    return done;
  }

  /// What a rank receives comes over its own link, in one launch.
  std::vector<Moment> walk_at_once(const std::vector<Moment>& begun) {
    std::vector<Moment> done = begun;
    for (int rank = 0; rank < world_; ++rank) {
      double seconds = 0.0;
      double latency = 0.0;
      int latest = rank;
      bool between = false;
      for (const ScanStep& step : schedules_[place(rank)]) {
        const int from = step.recv_from;
        if (from < 0) continue;
        const double empty = ranks_.shape.transfer_seconds(from, rank, 0.0, flows(from, rank));
        latency = std::max(latency, empty);
        seconds += ranks_.shape.transfer_seconds(from, rank, scan_.state_bytes, flows(from, rank)) - empty;
        between |= ranks_.shape.node_of(from) != ranks_.shape.node_of(rank);
        if (begun[place(from)].at > begun[place(latest)].at) latest = from;
        ranks_.count_bytes(from, rank, scan_.state_bytes);
      }
      Moment end = begun[place(latest)];
      end.at += latency + seconds;
      end.chain.hops += latest == rank ? 0 : 1;
      (between ? end.chain.between : end.chain.inside) += latency + seconds;
      if (end.at > done[place(rank)].at) done[place(rank)] = end;
    }
    return done;
  }

  void wait_until(const Moment& moment, std::size_t rank) {
    if (moment.at <= ranks_.clock[rank]) return;
    ranks_.exposed[rank] += moment.at - ranks_.clock[rank];
    ranks_.clock[rank] = moment.at;
    ranks_.chain[rank] = moment.chain;
  }

  /// From rank to rank; the next has one slot while this one has the next.
  void run_serial() {
    for (int slot = 0; slot < scan_.slots; ++slot) {
      Moment before;
      int from = -1;
      for (int rank = 0; rank < world_; ++rank) {
        const ScanSchedule& schedule = schedules_[place(rank)];
        if (schedule.empty() && output_[place(rank)] == 0.0) continue;
        if (from >= 0) {
          const double seconds = ranks_.shape.transfer_seconds(from, rank, scan_.state_bytes, 1);
          ranks_.count_bytes(from, rank, scan_.state_bytes);
          before.at += seconds;
          ++before.chain.hops;
          (ranks_.shape.node_of(from) == ranks_.shape.node_of(rank) ? before.chain.inside : before.chain.between) +=
              seconds;
          wait_until(before, place(rank));
        }
        advance(place(rank));
        before = {ranks_.clock[place(rank)], ranks_.chain[place(rank)]};
        from = rank;
      }
    }
  }

  void advance(std::size_t rank) {
    // One rank of a node is busy at a time, or as many as there are slots: each has a processor.
    ranks_.clock[rank] += output_[rank];
    ranks_.compute[rank] += output_[rank];
    ranks_.work_seconds += output_[rank];
    ranks_.chain[rank].compute += output_[rank];
  }

  const SimulatedScan& scan_;
  SimulatedRanks& ranks_;
  int world_;
  std::vector<ScanSchedule> schedules_;
  std::vector<double> output_;  // seconds of a slot
  std::vector<double> state_;
  std::size_t steps_ = 0;
};

}  // namespace

void simulate_scan(const SimulatedScan& scan, SimulatedRanks& ranks) {
  ScanSimulation(scan, ranks).run();
}

void simulate_linear(const SimulatedLinear& linear, SimulatedRanks& ranks) {
  const KernelCost& cost = linear.cost;
  SimulatedScan scan;
  scan.layout = linear.layout;
  scan.kind = linear.kind;
  scan.slots = (linear.heads + linear.heads_a_state - 1) / linear.heads_a_state;
  const double heads = static_cast<double>(linear.heads) / scan.slots;
  scan.state_bytes = heads * linear.state_bytes;
  scan.state_seconds.resize(ranks.clock.size());
  scan.output_seconds.resize(ranks.clock.size());
  std::vector<double> finish(ranks.clock.size());
  const std::vector<int> participants = scan_participants(*linear.layout);
  for (const int rank : participants) {
    const auto place = static_cast<std::size_t>(rank);
    const double tokens = static_cast<double>(linear.layout->local_tokens(rank)) * linear.batch;
    const double useful = heads * tokens * cost.row_seconds;
    const double output = cost.corrected(cost.call_seconds + useful, 1.0);
    double summary = cost.call_seconds + heads * tokens * cost.state_row_seconds;
    // Kept, it is a part of what the output by itself takes.
    if (linear.keeps_summaries) summary = std::min(summary, output);
    ranks.useful_seconds += std::min(useful, output) * scan.slots;
    // Where an output begins with a summary anyway, the last rank makes one, too, while it waits.
    const bool is_last = rank == participants.back();
    const bool sums_up =
        linear.kind != ScanKind::kSerial && (!is_last || (linear.keeps_summaries && rank != participants.front()));
    if (sums_up) scan.state_seconds[place] = summary;
    scan.output_seconds[place] = sums_up && linear.keeps_summaries ? output - summary : output;
  }
  simulate_scan(scan, ranks);
  for (std::size_t rank = 0; rank < finish.size(); ++rank) {
    finish[rank] = cost.rest_seconds(static_cast<double>(linear.layout->local_tokens(static_cast<int>(rank))) *
                                     linear.batch * linear.heads);
  }
  ranks.pass_finish(finish);
}

}  // namespace ringscan
