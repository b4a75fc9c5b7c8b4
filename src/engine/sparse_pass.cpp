#include "engine/sparse_pass.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "comm/ring_schedule.hpp"
#include "core/stopwatch.hpp"
#include "engine/kv_ring.hpp"
#include "engine/resident.hpp"
#include "engine/ring_walk.hpp"
#include "mechanism/growing_window.hpp"

namespace ringscan {
namespace {

AnyView without_values(const AnyView& v) {
  AnyView none = v;
  none.shape[3] = 0;
  return none;
}

class SparsePass {
 public:
  SparsePass(const RingPassTask& task, const SparseParams& params, Transport& transport, Kernels& kernels,
             MemoryLedger* ledger, const PassProgress& on_progress)
      : task_(task),
        params_(params),
        transport_(transport),
        kernels_(kernels),
        ledger_(ledger),
        on_progress_(on_progress),
        rank_(transport.rank()),
        band_(band_of(params)),
        window_(params, task.context_tokens() + task.layout->seq_len()),
        heads_(narrow_to(task.slots)),
        context_norms_(static_cast<std::size_t>(task.q.shape[0]) * heads_.kv_heads.size(), 0.0) {
    const bool wants_mass = task.wants_kept_mass;
    journeys_ = is_window() ? 1 + (wants_mass ? 1 : 0) : 1 + kTypicalSearchRounds;
    for (const Chunk& chunk : task.layout->chunks(rank_)) rows_.push_back(make_rows(chunk));
    if (wants_mass) {
      for (Rows& rows : rows_) kernels_.make(rows.all, shape_of(rows, 0), ledger_);
    }
  }

  RingPassResult run() {
    const RingSchedule whole = make_ring_schedule(*task_.layout, band_, rank_);
    if (is_window()) {
      if (task_.wants_kept_mass) add_all_weights(whole);
      const Reach reach = [this](std::int64_t query) { return window_.reach(visible_before(query)); };
      attend(make_ring_schedule(*task_.layout, band_, rank_, reach),
             first_context_key(task_, window_.reach(visible_before(0))));
    } else {
      search(whole);
      attend(whole, 0);
    }
    for (Rows& rows : rows_) finish(rows);
    settle_kernels(kernels_, heartbeat_, result_.finish_seconds, SpanKind::kFinish, result_.stats);
    measure_mass();
    result_.exposed_seconds += heartbeat_.seconds();
    result_.compute_seconds -= heartbeat_.seconds();
    result_.flops = flops();
    if (on_progress_) on_progress_(1.0);
    return result_;
  }

 private:
  /// A run of this rank's queries.
  struct Rows {
    const Chunk* chunk = nullptr;
    std::vector<std::int64_t> kept;    ///< keys each row keeps
    std::vector<std::int64_t> deltas;  ///< window: the largest i - j of each
    TopkBlock search;
    LseBlock all;  ///< weights of all keys, where the kept mass is wanted
    LseBlock out;
    std::size_t parts_ahead = 0;  ///< of the journey, that meet these
    bool is_finished = false;     ///< with their last keys
  };

  bool is_window() const { return params_.select == SparseSelect::kWindow; }

  /// Keys that stand before a token of the layout: its place in the joined sequence.
  std::int64_t visible_before(std::int64_t query) const { return task_.context_tokens() + query; }

  Rows make_rows(const Chunk& chunk) const {
    Rows rows;
    rows.chunk = &chunk;
    rows.kept = window_.keys_kept(TokenRun{visible_before(chunk.run.begin), visible_before(chunk.run.end)});
    if (is_window()) rows.deltas = GrowingWindow::reaches_of(rows.kept);
    return rows;
  }

  Rows& rows_of(const RingPart& part) { return rows_[static_cast<std::size_t>(part.query_chunk)]; }

  PartialShape shape_of(const Rows& rows, std::int64_t v_dim) const {
    return {task_.q.shape[0], rows.chunk->run.size(), static_cast<std::int64_t>(task_.slots.size()), v_dim};
  }

  /// What of the context a journey meets.
  struct ContextWalk {
    std::int64_t first_needed = 0;
    bool with_values = false;
  };

  /// The keys (and values, unless `v` has none) go round once, and behind them the context's come by; visit(rows,
  /// attend task, whether these are the rows' last keys) meets each piece.
  template <typename Visit>
  void travel(const RingSchedule& schedule, const AnyView& v, const ContextWalk& walk, Visit&& visit) {
    const std::int64_t walked = task_.context_tokens() - walk.first_needed;
    const bool reads_context = walked > 0;
    ring_share_ = static_cast<double>(task_.layout->seq_len()) /
                  static_cast<double>(std::max<std::int64_t>(1, task_.layout->seq_len() + walked));
    if (reads_context) {
      timed(result_.context_seconds, SpanKind::kWait,
            [&] { task_.context->begin(walk.first_needed, walk.with_values); });
    }
    go_round(schedule, v, !reads_context, visit);
    if (reads_context) meet_context(walked, v.shape[3], visit);
    ++journeys_behind_;
  }

  template <typename Visit>
  void meet_context(std::int64_t walked, std::int64_t v_dim, Visit&& visit) {
    while (auto block = timed(result_.context_seconds, SpanKind::kWait, [&] { return task_.context->next(); })) {
      measure_norms(*block);
      const Resident k(block->k, kernels_.memory());
      const Resident v(v_dim > 0 ? block->v : without_values(block->v), kernels_.memory());
      block->k = k.view();
      block->v = v.view();
      block->v.shape[3] = v_dim;
      for (Rows& rows : rows_) {
        const AttendTask task = context_task(task_, *block, heads_.slots, *rows.chunk, band_);
        const AddSeconds adder(result_.compute_seconds, SpanKind::kCompute);
        visit(rows, task, false);  // not known
      }
      const auto behind = static_cast<double>(task_.context_tokens() - block->run.begin);
      show_progress(ring_share_ + (1.0 - ring_share_) * behind / static_cast<double>(walked));
    }
    timed(result_.context_seconds, SpanKind::kWait, [&] { task_.context->end(); });
  }

  template <typename Visit>
  void go_round(const RingSchedule& schedule, const AnyView& v, bool ends_here, Visit&& visit) {
    KvRing ring = timed(result_.finish_seconds, SpanKind::kFinish, [&] {
      return KvRing(*task_.layout, schedule, task_.k, v, task_.slots, kernels_.memory(), transport_, ledger_);
    });
    MovingKeys moving(ring, transport_, kernels_, heartbeat_, result_);
    std::size_t parts_ahead = 0;
    for (const RingStep& step : schedule) {
      parts_ahead += step.parts.size();
      for (const RingPart& part : step.parts) ++rows_of(part).parts_ahead;
    }
    std::size_t parts_behind = 0;
    for (const RingStep& step : schedule) {
      moving.start(step);
      for (const RingPart& part : step.parts) {
        Rows& rows = rows_of(part);
        const bool is_last_part = --rows.parts_ahead == 0 && ends_here;
        for_each_piece(task_, ring.in_hand(step), part.band, keys_of(task_, step, part), *rows.chunk,
                       [&](const AttendTask& task, bool is_last_piece) {
                         const AddSeconds adder(result_.compute_seconds, SpanKind::kCompute);
                         visit(rows, task, is_last_part && is_last_piece);
                       });
        show_progress(ring_share_ * static_cast<double>(++parts_behind) / static_cast<double>(parts_ahead));
      }
      moving.arrive(step);
      ++result_.steps_taken;
    }
    moving.end();
  }

  void show_progress(double journey) const {
    const double behind = std::min(static_cast<double>(journeys_behind_), journeys_ - 1.0) + journey;
    if (on_progress_) on_progress_(std::min(1.0, behind / journeys_));
  }

  void add_all_weights(const RingSchedule& whole) {
    // The values of the context are looked at for their norms.
    travel(whole, without_values(task_.v), {0, true}, [&](Rows& rows, const AttendTask& task, bool) {
      kernels_.attend(task, SoftmaxParams{}, rows.all, heartbeat_);
    });
  }

  /// Rounds of counting until every row of every rank is exact.
  void search(const RingSchedule& whole) {
    for (Rows& rows : rows_) start_search(rows);
    const AnyView no_values = without_values(task_.v);
    bool is_first = true;
    std::int64_t open = 1;
    while (open > 0) {
      travel(whole, no_values, {0, false}, [&](Rows& rows, const AttendTask& task, bool) {
        if (is_first && task_.wants_kept_mass) {
          kernels_.count_and_add(task, rows.search, rows.all, heartbeat_);
        } else {
          kernels_.count(task, rows.search, heartbeat_);
        }
      });
      is_first = false;
      open = 0;
      timed(result_.compute_seconds, SpanKind::kCompute, [&] {
        for (Rows& rows : rows_) open += kernels_.narrow(rows.search) ? 0 : 1;
      });
      timed(result_.exposed_seconds, [&] { open = transport_.RankGroup::all_reduce(open, ReduceOp::kMax); });
    }
  }

  /// Looks at keys of this rank's own tokens. They are in the order of the sequence, so a row sees those up to its own
  /// place among them: it is there that their run is laid.
  void start_search(Rows& rows) {
    const AddSeconds adder(result_.compute_seconds, SpanKind::kCompute);
    kernels_.make(rows.search, shape_of(rows, task_.v.shape[3]), ledger_);
    const Chunk& chunk = *rows.chunk;
    AttendTask task;
    task.q = task_.q.tokens(chunk.local_begin, chunk.run.size());
    task.k = task_.k;
    task.v = without_values(task.k);
    task.slots = task_.slots;
    task.query_run = task_.positions(chunk.run);
    task.key_run = {task.query_run.begin - chunk.local_begin,
                    task.query_run.begin - chunk.local_begin + task.k.shape[1]};
    task.band = band_;
    task.scale = static_cast<float>(task_.scale);
    kernels_.start_search(task, rows.kept, rows.search);
  }

  void attend(const RingSchedule& schedule, std::int64_t first_of_context) {
    journeys_behind_ = std::max(journeys_behind_, journeys_ - 1);
    for (Rows& rows : rows_) kernels_.make(rows.out, shape_of(rows, task_.v.shape[3]), ledger_);
    travel(schedule, task_.v, {first_of_context, true}, [&](Rows& rows, const AttendTask& given, bool is_last) {
      AttendTask task = given;
      if (is_window()) task.max_deltas = rows.deltas;
      result_.stats += traced(attend_keys(task, rows, is_last && kernels_.gains_by_attend_last()));
    });
  }

  AttendStats attend_keys(const AttendTask& task, Rows& rows, bool are_last) {
    const auto attend_by = [&](const auto& params) {
      return are_last ? kernels_.attend_last(task, finish_task_of(rows), params, rows.out, heartbeat_)
                      : kernels_.attend(task, params, rows.out, heartbeat_);
    };
    rows.is_finished = are_last;
    return is_window() ? attend_by(SoftmaxParams{}) : attend_by(rows.search);
  }

  FinishTask finish_task_of(const Rows& rows) const {
    FinishTask task = finish_task(task_, *rows.chunk);
    task.kept_mass = part_of(task_.kept_mass, *rows.chunk);
    task.all = &rows.all;
    return task;
  }

  void finish(Rows& rows) {
    const AddSeconds adder(result_.finish_seconds, SpanKind::kFinish);
    if (rows.chunk->run.empty() || rows.is_finished) return;
    kernels_.finish(finish_task_of(rows), SoftmaxParams{}, rows.out);
  }

  /// Collective where the mass is wanted: a head's largest ||v|| is over all its keys.
  void measure_mass() {
    if (!task_.wants_kept_mass) return;
    const AddSeconds adder(result_.finish_seconds, SpanKind::kFinish);
    const std::int64_t batch_size = task_.q.shape[0];
    const auto num_slots = static_cast<std::int64_t>(task_.slots.size());
    std::vector<double> largest(static_cast<std::size_t>(batch_size * num_slots), 0.0);
    const HostCopy values(task_.v, kernels_.memory());
    for (std::size_t i = 0; i < largest.size(); ++i) {
      const auto index = static_cast<std::int64_t>(i);
      const int kv_head = task_.slots[static_cast<std::size_t>(index % num_slots)].kv_head;
      largest[i] = largest_norm(values.view(), {0, task_.v.shape[1]}, index / num_slots, kv_head);
    }
    for (std::size_t i = 0; i < largest.size(); ++i) {
      const auto slots = static_cast<std::size_t>(num_slots);
      const auto kv_head = static_cast<std::size_t>(heads_.slots[i % slots].kv_head);
      largest[i] = std::max(largest[i], context_norms_[i / slots * heads_.kv_heads.size() + kv_head]);
    }
    transport_.all_reduce(std::span<double>(largest), ReduceOp::kMax);
    KeptMassFigures& figures = result_.kept_mass;
    const HostCopy masses(
        dense_any_view(static_cast<const void*>(task_.kept_mass.data), ElementType::kFloat32, task_.kept_mass.shape),
        kernels_.memory());
    for (std::size_t i = 0; i < largest.size(); ++i) {
      const auto index = static_cast<std::int64_t>(i);
      const int head = task_.slots[static_cast<std::size_t>(index % num_slots)].q_head;
      for (std::int64_t token = 0; token < task_.q.shape[1]; ++token) {
        float row = 0.0f;
        std::memcpy(&row, masses.view().row(index / num_slots, token, head), sizeof row);
        const double mass = double{row};
        figures.sum += mass;
        ++figures.rows;
        figures.min = mass >= figures.min ? figures.min : mass;
        figures.error_bound = std::max(figures.error_bound, 2.0 * (1.0 - mass) * largest[i]);
      }
    }
  }

  /// Each rank looks at its share of a block that has its values.
  void measure_norms(const ContextBlock& block) {
    if (!task_.wants_kept_mass || block.v.shape[3] == 0) return;
    const AddSeconds adder(result_.finish_seconds, SpanKind::kFinish);
    const std::int64_t share = ceil_div(block.run.size(), transport_.world_size());
    const TokenRun mine = intersect(TokenRun{0, block.run.size()}, TokenRun{rank_ * share, (rank_ + 1) * share});
    const std::size_t num_heads = heads_.kv_heads.size();
    for (std::size_t i = 0; i < context_norms_.size(); ++i) {
      const double norm =
          largest_norm(block.v, mine, static_cast<std::int64_t>(i / num_heads), static_cast<int>(i % num_heads));
      context_norms_[i] = std::max(context_norms_[i], norm);
    }
  }

  /// The largest ||v|| of some tokens of a head.
  static double largest_norm(const AnyView& values, const TokenRun& tokens, std::int64_t batch, int kv_head) {
    const auto v_dim = static_cast<std::size_t>(values.shape[3]);
    std::vector<float> v(v_dim);
    double largest = 0.0;
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
      convert_elements(values.row(batch, token, kv_head), values.type, v.data(), ElementType::kFloat32, v_dim);
      largest = std::max(largest, std::inner_product(v.begin(), v.end(), v.begin(), 0.0));
    }
    return std::sqrt(largest);
  }

  /// Useful: a score for each visible key (window: kept key), a weighted value for each kept one.
  double flops() const {
    std::int64_t kept = 0;
    for (const Rows& rows : rows_) kept += std::accumulate(rows.kept.begin(), rows.kept.end(), std::int64_t{0});
    const auto heads = static_cast<double>(task_.q.shape[0]) * static_cast<double>(task_.slots.size());
    return 2.0 * static_cast<double>(task_.q.shape[3]) * static_cast<double>(result_.stats.pairs) +
           2.0 * static_cast<double>(task_.v.shape[3]) * static_cast<double>(kept) * heads;
  }

  const RingPassTask& task_;
  const SparseParams& params_;
  Transport& transport_;
  Kernels& kernels_;
  MemoryLedger* ledger_;
  const PassProgress& on_progress_;
  int rank_;
  Band band_;
  GrowingWindow window_;
  NarrowedHeads heads_;                // as the context's blocks number KV heads
  std::vector<double> context_norms_;  // [batch, KV heads]: max ||v|| of the context's tokens this rank has looked at
  std::vector<Rows> rows_;             // one a query chunk
  TransferHeartbeat heartbeat_;
  RingPassResult result_;
  int journeys_ = 1;
  int journeys_behind_ = 0;
  double ring_share_ = 1.0;  // of a journey's keys; the others are the context's
};

}  // namespace

RingPassResult run_sparse_pass(const RingPassTask& task, const SparseParams& params, Transport& transport,
                               Kernels& kernels, MemoryLedger* ledger, const PassProgress& on_progress) {
  return SparsePass(task, params, transport, kernels, ledger, on_progress).run();
}

}  // namespace ringscan
