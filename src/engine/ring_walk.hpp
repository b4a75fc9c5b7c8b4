#pragma once
// What every pass over the ring does on its way.

#include <algorithm>
#include <optional>

#include "comm/ring_schedule.hpp"
#include "comm/transport.hpp"
#include "core/stopwatch.hpp"
#include "engine/kv_ring.hpp"
#include "engine/ring_pass.hpp"

namespace ringscan {

/// Moves the transfer in flight on whenever the kernels come up for air.
class TransferHeartbeat final : public Heartbeat {
 public:
  /// `beside`: while this is called a device computes, so that it takes no time from that.
  void follow(Ticket* ticket, bool beside = false) {
    ticket_ = ticket;
    beside_ = beside;
  }
  void beat() override {
    if (ticket_ == nullptr) return;
    std::optional<AddPollingSeconds> adder;
    if (!beside_) adder.emplace(seconds_);
    if (ticket_->poll()) ticket_ = nullptr;
  }
  double seconds() const { return seconds_; }

 private:
  Ticket* ticket_ = nullptr;
  bool beside_ = false;
  double seconds_ = 0.0;
};

/// Adds to the counters of the thread's trace, where it has one.
inline const AttendStats& traced(const AttendStats& stats) {
  if (Trace* const trace = Trace::of_this_thread()) trace->count_tiles(stats.tiles_computed, stats.tiles_skipped);
  return stats;
}

/// Waits for kernels that work behind their callers; adds the time to `seconds`.
inline void settle_kernels(Kernels& kernels, Heartbeat& heartbeat, double& seconds, SpanKind kind, AttendStats& stats) {
  if (kernels.memory().work_queue() == nullptr) return;
  timed(seconds, kind, [&] { stats += traced(kernels.settle(heartbeat)); });
}

/// Transfers that are under way beside the kernels. Where the device keeps the order, the next one starts while the
/// last one may still move, so that a failure is looked for until the end.
class MovingKeys {
 public:
  MovingKeys(KvRing& ring, Transport& transport, Kernels& kernels, TransferHeartbeat& heartbeat, RingPassResult& result)
      : ring_(ring),
        transport_(transport),
        kernels_(kernels),
        heartbeat_(heartbeat),
        result_(result),
        has_queue_(kernels.memory().work_queue() != nullptr),
        in_queue_(transport.carries_in_queue(kernels.memory())) {}
  ~MovingKeys() { heartbeat_.follow(nullptr); }
  MovingKeys(const MovingKeys&) = delete;
  MovingKeys& operator=(const MovingKeys&) = delete;

  void start(const RingStep& step) {
    // In a queue the last transfer is waited for here, beside the kernels.
    timed(in_queue_ ? result_.compute_seconds : result_.exposed_seconds, [&] {
      heartbeat_.follow(nullptr);
      moving_.wait();
      moving_ = ring_.start(step);
    });
    if (step.send_to >= 0) result_.sent_bytes += ring_.message_bytes(step.kv_rank);
    heartbeat_.follow(&moving_, has_queue_);
  }
  /// Behind what is attended at this step.
  void arrive(const RingStep& step) {
    if (!in_queue_) {
      settle();
      heartbeat_.follow(nullptr);
    }
    // In a queue this may wait for the transfer's launch, beside the kernels.
    timed(in_queue_ ? result_.compute_seconds : result_.exposed_seconds, [&] { moving_.order(); });
    ring_.advance(step);
  }
  /// Waits for the kernels, and the transfers with them.
  void settle() { settle_kernels(kernels_, heartbeat_, result_.compute_seconds, SpanKind::kCompute, result_.stats); }
  void end() {
    if (in_queue_) settle();
    heartbeat_.follow(nullptr);
    timed(result_.exposed_seconds, [&] { moving_.wait(); });
    // What the queue waited for was in the time of settle().
    const double waited = transport_.take_queue_seconds();
    result_.exposed_seconds += waited;
    result_.compute_seconds -= waited;
  }

 private:
  KvRing& ring_;
  Transport& transport_;
  Kernels& kernels_;
  TransferHeartbeat& heartbeat_;
  RingPassResult& result_;
  bool has_queue_;
  bool in_queue_;
  Ticket moving_;
};

/// Keys that are met in one walk, and where the first of them lies in the shard.
struct KeyRun {
  TokenRun run;
  std::int64_t local_begin = 0;
};

inline KeyRun keys_of(const RingPassTask& pass, const RingStep& step, const RingPart& part) {
  const Chunk& keys = pass.layout->chunks(step.kv_rank)[static_cast<std::size_t>(part.key_chunk)];
  return {keys.run, keys.local_begin};
}

/// Parts of a step, from `first` on, that one walk can meet, and how many they are: those of a run of queries whose far
/// keys all its rows see may lie anywhere that they all see. `takes_gaps`: sums in any order and kernels that take gaps
/// permit that.
inline KeyRun walk_from(const RingPassTask& pass, int rank, const RingStep& step, std::size_t first, bool takes_gaps,
                        std::size_t& parts) {
  const RingPart& near = step.parts[first];
  KeyRun keys = keys_of(pass, step, near);
  parts = 1;
  if (!takes_gaps || first + 1 == step.parts.size()) return keys;
  const RingPart& far = step.parts[first + 1];
  if (far.query_chunk != near.query_chunk) return keys;
  const KeyRun beyond = keys_of(pass, step, far);
  const TokenRun& queries = pass.layout->chunks(rank)[static_cast<std::size_t>(near.query_chunk)].run;
  const TokenRun moved{keys.run.begin - beyond.run.size(), keys.run.begin};
  const bool adjoin = beyond.local_begin + beyond.run.size() == keys.local_begin;
  if (!adjoin || !all_pairs(far.band, queries, beyond.run) || !all_pairs(far.band, queries, moved)) return keys;
  parts = 2;
  return {{moved.begin, keys.run.end}, beyond.local_begin};
}

/// A run of queries' part of what there is one of a row and head, if it is wanted.
inline TensorView<float> part_of(TensorView<float> whole, const Chunk& queries) {
  if (whole.data == nullptr) return whole;
  whole.data = whole.row(0, queries.local_begin, 0);
  whole.shape[1] = queries.run.size();
  return whole;
}

/// What becomes of a run of queries; the kept mass apart.
inline FinishTask finish_task(const RingPassTask& pass, const Chunk& queries) {
  FinishTask task;
  task.o = pass.o.tokens(queries.local_begin, queries.run.size());
  task.statistic = part_of(pass.statistic, queries);
  task.slots = pass.slots;
  task.v_own = pass.v.tokens(queries.local_begin, queries.run.size());
  task.remainder_value = pass.remainder_value;
  return task;
}

/// Calls attend(AttendTask, whether it is the last) for the keys near first, piece by piece.
template <typename Attend>
void for_each_piece(const RingPassTask& pass, const KeysInHand& hand, const Band& band, const KeyRun& keys,
                    const Chunk& queries, Attend&& attend) {
  AttendTask task;
  task.q = pass.q.tokens(queries.local_begin, queries.run.size());
  task.slots = hand.slots;
  task.query_run = pass.positions(queries.run);
  task.band = band;
  task.scale = static_cast<float>(pass.scale);
  task.key_block = pass.key_block;
  for (std::int64_t end = keys.run.end; end > keys.run.begin;) {
    const std::int64_t begin = std::max(keys.run.begin, (end - 1) / pass.piece_keys * pass.piece_keys);
    task.key_run = pass.positions({begin, end});
    const std::int64_t first_local = keys.local_begin + begin - keys.run.begin;
    task.k = hand.k.tokens(first_local, end - begin);
    task.v = hand.v.tokens(first_local, end - begin);
    attend(std::as_const(task), begin == keys.run.begin);
    end = begin;
  }
}

/// The context's farthest key that a query sees whose window is the widest: the first one's. It sees those at most
/// `max_delta` before it.
inline std::int64_t first_context_key(const RingPassTask& pass, std::int64_t max_delta) {
  return std::clamp<std::int64_t>(pass.context_tokens() - max_delta, 0, pass.context_tokens());
}

/// A run of queries meets a block of the context. `slots` number its KV heads (narrow_to()).
inline AttendTask context_task(const RingPassTask& pass, const ContextBlock& block, std::span<const HeadSlot> slots,
                               const Chunk& queries, const Band& band) {
  AttendTask task;
  task.q = pass.q.tokens(queries.local_begin, queries.run.size());
  task.k = block.k;
  task.v = block.v;
  task.slots = slots;
  task.query_run = pass.positions(queries.run);
  task.key_run = pass.context_positions(block.run);
  task.band = band;
  task.scale = static_cast<float>(pass.scale);
  task.key_block = pass.key_block;
  return task;
}

}  // namespace ringscan
