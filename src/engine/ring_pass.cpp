#include "engine/ring_pass.hpp"

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "comm/ring_schedule.hpp"
#include "core/error.hpp"
#include "core/stopwatch.hpp"
#include "engine/kv_ring.hpp"
#include "engine/resident.hpp"
#include "engine/ring_walk.hpp"
#include "engine/sparse_pass.hpp"
#include "mechanism/ordered_fold.hpp"

namespace ringscan {
namespace {

/// The pass of one mechanism; `Params` is its parameter struct.
template <typename Params>
class RingPass {
 public:
  using Block = typename BlockOf<Params>::type;

  RingPass(const RingPassTask& task, const Params& params, Transport& transport, Kernels& kernels, MemoryLedger* ledger,
           const PassProgress& on_progress)
      : task_(task),
        params_(params),
        transport_(transport),
        kernels_(kernels),
        ledger_(ledger),
        on_progress_(on_progress),
        rank_(transport.rank()),
        band_(band_of(params)),
        schedule_(make_ring_schedule(*task.layout, band_, rank_)) {
    choose_near();
    add_rows();
    for (const RingStep& step : schedule_) {
      for (const RingPart& part : step.parts) {
        pairs_ahead_ += pairs_of(step, part);
        for (Rows& rows : rows_) rows.parts_ahead += rows.layout_chunk == part.query_chunk ? 1 : 0;
      }
    }
    const TokenRun context = task.context_positions({first_context_key(), task.context_tokens()});
    for (const Chunk& chunk : task.layout->chunks(rank_)) {
      pairs_ahead_ += count_pairs(band_, task.positions(chunk.run), context);
    }
  }

  RingPassResult run() {
    // The nearest block may be fetched while the ring computes.
    if (reads_context())
      timed(result_.context_seconds, SpanKind::kWait, [&] { task_.context->begin(first_context_key(), true); });
    go_round();
    if (reads_context()) meet_context();
    result_.exposed_seconds += heartbeat_.seconds();
    result_.compute_seconds -= heartbeat_.seconds();
    finish();
    settle_kernels(kernels_, heartbeat_, result_.finish_seconds, SpanKind::kFinish, result_.stats);
    result_.flops =
        2.0 * static_cast<double>(task_.q.shape[3] + task_.v.shape[3]) * static_cast<double>(result_.stats.pairs);
    return result_;
  }

 private:
  static constexpr bool kOrdered = std::is_same_v<Block, StickBlock>;

  /// Queries that have a partial result of their own: a chunk of the layout, or where the nearest keys go on ahead the
  /// first ones of it, which alone may need these, and the others.
  struct Rows {
    Chunk chunk;
    int layout_chunk = 0;
    std::size_t parts_ahead = 0;  ///< of the schedule's, that meet these
    OrderedFold<Block> fold;
    bool is_done = false;      ///< no farther key can change any of them
    bool is_finished = false;  ///< with their last keys
  };

  void choose_near() {
    if (!has_early_exit() || schedule_.size() < 2) return;
    const NearKeys near(*task_.layout, task_.key_block);
    const bool is_in_vain = task_.sticks != nullptr && task_.sticks->passes_without_near > 0;
    if (near.any() && is_in_vain) {
      --task_.sticks->passes_without_near;
    } else {
      near_ = near;
    }
  }

  void add_rows() {
    const auto chunks = task_.layout->chunks(rank_);
    for (std::size_t index = 0; index < chunks.size(); ++index) {
      const Chunk& whole = chunks[index];
      const std::int64_t front = near_.tokens() < whole.run.size() ? near_.tokens() : 0;
      if (front > 0) add_run({{whole.run.begin, whole.run.begin + front}, whole.rank, whole.local_begin}, index);
      add_run({{whole.run.begin + front, whole.run.end}, whole.rank, whole.local_begin + front}, index);
    }
  }

  void add_run(const Chunk& chunk, std::size_t layout_chunk) {
    Rows& rows = rows_.emplace_back();
    rows.chunk = chunk;
    rows.layout_chunk = static_cast<int>(layout_chunk);
  }

  bool reads_context() const { return first_context_key() < task_.context_tokens(); }
  std::int64_t first_context_key() const { return ringscan::first_context_key(task_, band_.max_delta); }

  bool has_early_exit() const {
    if constexpr (kOrdered) {
      return params_.epsilon > 0.0;
    } else {
      return false;
    }
  }
  bool ring_exits_early() const { return has_early_exit() && schedule_.size() > 2; }

  void go_round() {
    if (near_.any() && near_keys_end_all()) {
      result_.steps_taken = 2;
      result_.steps_saved = static_cast<int>(schedule_.size()) - result_.steps_taken;
      return;
    }
    constexpr int kPassesUntilNextTry = 15;
    if (near_.any() && task_.sticks != nullptr) task_.sticks->passes_without_near = kPassesUntilNextTry;
    pass_shards_on();
  }

  /// Meets this rank's own keys, and the nearest ones of the rank before it. True where no row of any rank needs more.
  bool near_keys_end_all() {
    const RingStep& own = schedule_.front();
    const RingSchedule schedule{own, {own.next_kv_rank >= 0 ? own.next_kv_rank : own.kv_rank, -1, -1, -1, {}}};
    const std::int64_t mine = near_.run(rank_).size();
    const std::int64_t first = task_.k.shape[1] - mine;
    KvRing ring = timed(result_.finish_seconds, SpanKind::kFinish, [&] {
      return KvRing(near_.tokens_by_rank(), schedule, task_.k.tokens(first, mine), task_.v.tokens(first, mine),
                    task_.slots, kernels_.memory(), transport_, ledger_);
    });
    const bool has_near = own.recv_from >= 0;
    const auto meet_near = [&](Rows& rows) {
      for (const RingPart& part : schedule_[1].parts) {
        attend_rows(ring.in_hand(schedule[1]), part, {near_.run(own.next_kv_rank), 0}, rows);
      }
    };
    MovingKeys moving(ring, transport_, kernels_, heartbeat_, result_);
    moving.start(own);
    for (std::size_t part = 0; part < own.parts.size(); ++part) attend({task_.k, task_.v, task_.slots}, own, part);
    moving.arrive(own);
    if (has_near) meet_near(rows_.front());
    moving.end();
    moving.settle();
    std::int64_t open = has_open_work(1) ? 1 : 0;
    timed(result_.exposed_seconds, [&] { open = transport_.RankGroup::all_reduce(open, ReduceOp::kMax); });
    if (open == 0) return true;
    // The ring brings the keys behind these.
    if (has_near) {
      for (Rows& rows : std::span(rows_).subspan(1)) meet_near(rows);
      near_of_rank_ = own.next_kv_rank;
      moving.settle();
    }
    return false;
  }

  void pass_shards_on() {
    KvRing ring = timed(result_.finish_seconds, SpanKind::kFinish, [&] {
      return KvRing(*task_.layout, schedule_, task_.k, task_.v, task_.slots, kernels_.memory(), transport_, ledger_);
    });
    MovingKeys moving(ring, transport_, kernels_, heartbeat_, result_);
    std::unique_ptr<PendingSum> open_ranks;
    for (std::size_t index = 0; index < schedule_.size(); ++index) {
      const RingStep& step = schedule_[index];
      moving.start(step);
      const bool is_met = near_.any() && index == 0;
      for (std::size_t part = 0; part < step.parts.size() && !is_met;) part += attend(ring.in_hand(step), step, part);
      moving.arrive(step);
      ++result_.steps_taken;
      if (!ring_exits_early() || index + 1 == schedule_.size()) continue;
      // The sum that was started a step ago had this step's computing to arrive in, so that nobody stalls on it.
      moving.settle();
      bool all_ranks_done = false;
      if (open_ranks) timed(result_.exposed_seconds, [&] { all_ranks_done = open_ranks->get() == 0; });
      open_ranks.reset();
      if (all_ranks_done) break;
      open_ranks = transport_.start_sum(has_open_work(index + 1) ? 1 : 0);
    }
    moving.end();
    if (open_ranks) timed(result_.exposed_seconds, [&] { open_ranks->get(); });
    result_.steps_saved = static_cast<int>(schedule_.size()) - result_.steps_taken;
  }

  /// Every rank meets the same blocks, near first; behind all keys of the ring, so that what waits there has been
  /// joined, or needs nothing more.
  void meet_context() {
    const NarrowedHeads heads = narrow_to(task_.slots);
    // Reading is collective, so that the ranks wait for each other here anyway.
    while (!has_early_exit() || any_rank_open()) {
      auto block = timed(result_.context_seconds, SpanKind::kWait, [&] { return task_.context->next(); });
      if (!block) break;
      const Resident k(block->k, kernels_.memory()), v(block->v, kernels_.memory());
      block->k = k.view();
      block->v = v.view();
      for (Rows& rows : rows_) {
        const AttendTask task = context_task(task_, *block, heads.slots, rows.chunk, band_);
        if (!any_pair(band_, task.query_run, task.key_run)) continue;
        if (is_open(rows)) attend_task(task, context_partial(rows));
        count_progress(count_pairs(band_, task.query_run, task.key_run));
      }
    }
    timed(result_.context_seconds, SpanKind::kWait, [&] { task_.context->end(); });
  }

  /// True where keys before the layout's first can change one of the rows.
  bool is_open(const Rows& rows) const {
    if (rows.chunk.run.empty()) return false;
    if constexpr (kOrdered) {
      const auto& parts = rows.fold.parts();
      return parts.empty() || !kernels_.all_done(parts.back().partial);
    }
    return true;
  }

  bool any_rank_open() {
    std::int64_t open = std::count_if(rows_.begin(), rows_.end(), [&](const Rows& rows) { return is_open(rows); });
    timed(result_.exposed_seconds, [&] { open = transport_.RankGroup::all_reduce(open, ReduceOp::kMax); });
    return open > 0;
  }

  Block& context_partial(Rows& rows) {
    auto& parts = rows.fold.parts();
    if (parts.empty()) parts.push_back({{0, 0}, new_block(rows.chunk)});
    return parts.back().partial;
  }

  const Chunk& query_chunk(const RingPart& part) const {
    return task_.layout->chunks(rank_)[static_cast<std::size_t>(part.query_chunk)];
  }
  const Chunk& key_chunk(const RingStep& step, const RingPart& part) const {
    return task_.layout->chunks(step.kv_rank)[static_cast<std::size_t>(part.key_chunk)];
  }
  std::int64_t pairs_of(const RingStep& step, const RingPart& part) const {
    return count_pairs(part.band, query_chunk(part).run, key_chunk(step, part).run);
  }

  Block new_block(const Chunk& chunk) {
    Block block;
    kernels_.make(block,
                  {task_.q.shape[0], chunk.run.size(), static_cast<std::int64_t>(task_.slots.size()), task_.v.shape[3]},
                  ledger_);
    return block;
  }

  auto joiner() {
    return [this](Block& near, const Block& far) { kernels_.join(near, far); };
  }

  /// Returns how many parts of the step, from `first` on, it has met.
  std::size_t attend(const KeysInHand& hand, const RingStep& step, std::size_t first) {
    std::size_t parts = 1;
    KeyRun keys = walk_from(task_, rank_, step, first, !kOrdered && kernels_.takes_gaps(), parts);
    if (step.kv_rank == near_of_rank_) keys.run.end = std::max(keys.run.begin, near_.run(step.kv_rank).begin);
    for (Rows& rows : rows_) {
      if (rows.layout_chunk != step.parts[first].query_chunk) continue;
      rows.parts_ahead -= parts;
      attend_rows(hand, step.parts[first], keys, rows);
    }
    return parts;
  }

  void attend_rows(const KeysInHand& hand, const RingPart& part, const KeyRun& keys, Rows& rows) {
    if (keys.run.empty() || rows.chunk.run.empty()) return;
    OrderedFold<Block>& fold = rows.fold;
    if constexpr (kOrdered) {
      if (rows.is_done) return count_progress(count_pairs(part.band, rows.chunk.run, keys.run));
      if (auto* nearer = fold.nearer_neighbour(keys.run)) {
        attend_run(hand, part, keys, rows, nearer->partial);
        fold.extend(nearer, keys.run, joiner());
        return;
      }
      Block fresh = new_block(rows.chunk);
      attend_run(hand, part, keys, rows, fresh);
      fold.add(keys.run, std::move(fresh), joiner());
    } else {
      // Commutative: one accumulator takes all keys, in whatever order they come.
      if (fold.parts().empty()) fold.add({0, task_.layout->seq_len()}, new_block(rows.chunk), joiner());
      attend_run(hand, part, keys, rows, fold.parts().front().partial);
    }
  }

  /// True where these keys are the rows' last, and all others are in the block that these are added to.
  bool are_last(const KeyRun& keys, Rows& rows) const {
    if (rows.parts_ahead > 0 || reads_context() || !kernels_.gains_by_attend_last()) return false;
    const std::size_t others = rows.fold.parts().size();
    return !kOrdered || others == 0 || (others == 1 && rows.fold.nearer_neighbour(keys.run) != nullptr);
  }

  /// Walks the keys near first, piece by piece.
  void attend_run(const KeysInHand& hand, const RingPart& part, const KeyRun& keys, Rows& rows, Block& block) {
    const bool are_last_keys = are_last(keys, rows);
    for_each_piece(task_, hand, part.band, keys, rows.chunk, [&](const AttendTask& task, bool is_last_piece) {
      attend_task(task, block, are_last_keys && is_last_piece ? &rows : nullptr);
      count_progress(count_pairs(part.band, task.query_run, task.key_run));
    });
  }

  /// `last`: the block's rows, whose last keys these are; null: they are not known to be.
  void attend_task(const AttendTask& task, Block& block, Rows* last = nullptr) {
    result_.stats += traced(timed(result_.compute_seconds, SpanKind::kCompute, [&] {
      if (last == nullptr) return kernels_.attend(task, params_, block, heartbeat_);
      return kernels_.attend_last(task, finish_task(task_, last->chunk), params_, block, heartbeat_);
    }));
    if (last != nullptr) last->is_done = last->is_finished = true;
  }

  void count_progress(std::int64_t pairs) {
    pairs_behind_ += pairs;
    if (on_progress_ && pairs_ahead_ > 0) {
      on_progress_(static_cast<double>(pairs_behind_) / static_cast<double>(pairs_ahead_));
    }
  }

  /// True where some later step can still change a row of this rank. @pre the kernels are settled.
  bool has_open_work(std::size_t next_step) {
    if constexpr (kOrdered) {
      for (Rows& rows : rows_) rows.is_done = rows.is_done || !is_open(rows);
      for (std::size_t index = next_step; index < schedule_.size(); ++index) {
        for (const RingPart& part : schedule_[index].parts) {
          const auto needs = [&](const Rows& rows) { return rows.layout_chunk == part.query_chunk && !rows.is_done; };
          if (std::any_of(rows_.begin(), rows_.end(), needs)) return true;
        }
      }
    }
    return false;
  }

  void finish() {
    const AddSeconds adder(result_.finish_seconds, SpanKind::kFinish);
    for (Rows& rows : rows_) {
      if (rows.chunk.run.empty() || rows.is_finished) continue;
      // Where the ring ended early several parts may be left; then no row needs what lies behind the nearest.
      auto& parts = rows.fold.parts();
      Block block = parts.empty() ? new_block(rows.chunk) : std::move(parts.back().partial);
      parts.clear();
      kernels_.finish(finish_task(task_, rows.chunk), params_, block);
    }
  }

  const RingPassTask& task_;
  const Params& params_;
  Transport& transport_;
  Kernels& kernels_;
  MemoryLedger* ledger_;
  const PassProgress& on_progress_;
  int rank_;
  Band band_;
  RingSchedule schedule_;
  std::vector<Rows> rows_;
  TransferHeartbeat heartbeat_;
  RingPassResult result_;
  NearKeys near_;          // go on ahead
  int near_of_rank_ = -1;  // whose of these have been met here
  std::int64_t pairs_ahead_ = 0;
  std::int64_t pairs_behind_ = 0;
};

}  // namespace

RingPassResult run_ring_pass(const RingPassTask& task, Transport& transport, Kernels& kernels, MemoryLedger* ledger,
                             const PassProgress& on_progress) {
  return std::visit(
      [&](const auto& params) {
        using Params = std::decay_t<decltype(params)>;
        if constexpr (std::is_same_v<Params, SparseParams>) {
          return run_sparse_pass(task, params, transport, kernels, ledger, on_progress);
        } else if constexpr (std::is_same_v<Params, LinearParams>) {
          throw failure("linear attention carries a state and goes round no ring");
          return RingPassResult{};
        } else
          return RingPass<Params>(task, params, transport, kernels, ledger, on_progress).run();
      },
      task.mechanism);
}

}  // namespace ringscan
