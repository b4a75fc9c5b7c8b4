#pragma once
// What every pass over the ring does on its way.

#include <algorithm>

#include "comm/ring_schedule.hpp"
#include "comm/transport.hpp"
#include "core/stopwatch.hpp"
#include "engine/kv_ring.hpp"
#include "engine/ring_pass.hpp"

namespace ringscan {

/// Moves the transfer in flight on whenever the kernels come up for air.
class TransferHeartbeat final : public Heartbeat {
 public:
  void follow(Ticket* ticket) { ticket_ = ticket; }
  void beat() override {
    if (ticket_ == nullptr) return;
    const AddPollingSeconds adder(seconds_);
    if (ticket_->poll()) ticket_ = nullptr;
  }
  double seconds() const { return seconds_; }

 private:
  Ticket* ticket_ = nullptr;
  double seconds_ = 0.0;
};

/// Adds to the counters of the thread's trace, where it has one.
inline const AttendStats& traced(const AttendStats& stats) {
  if (Trace* const trace = Trace::of_this_thread()) trace->count_tiles(stats.tiles_computed, stats.tiles_skipped);
  return stats;
}

/// Calls attend(AttendTask) for the part's keys near first, piece by piece.
template <typename Attend>
void for_each_piece(const RingPassTask& pass, const KvRing& ring, const RingStep& step, const RingPart& part, int rank,
                    Attend&& attend) {
  const Chunk& queries = pass.layout->chunks(rank)[static_cast<std::size_t>(part.query_chunk)];
  const Chunk& keys = pass.layout->chunks(step.kv_rank)[static_cast<std::size_t>(part.key_chunk)];
  AttendTask task;
  task.q = pass.q.tokens(queries.local_begin, queries.run.size());
  task.slots = ring.slots(step);
  task.query_run = pass.positions(queries.run);
  task.band = part.band;
  task.scale = static_cast<float>(pass.scale);
  task.key_block = pass.key_block;
  const AnyView k = ring.keys(step);
  const AnyView v = ring.values(step);
  for (std::int64_t end = keys.run.end; end > keys.run.begin;) {
    const std::int64_t begin = std::max(keys.run.begin, (end - 1) / pass.piece_keys * pass.piece_keys);
    task.key_run = pass.positions({begin, end});
    const std::int64_t first_local = keys.local_begin + begin - keys.run.begin;
    task.k = k.tokens(first_local, end - begin);
    task.v = v.tokens(first_local, end - begin);
    attend(std::as_const(task));
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
