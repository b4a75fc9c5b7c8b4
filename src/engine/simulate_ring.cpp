#include "engine/simulate_ring.hpp"

#include <algorithm>
#include <vector>

#include "engine/near_keys.hpp"
#include "mechanism/growing_window.hpp"

namespace ringscan {
namespace {

/// Rows of `queries` that see at least one of `keys`.
double rows_with_keys(const Band& band, const TokenRun& queries, const TokenRun& keys) {
  const TokenRun rows{std::max(queries.begin, keys.begin + band.min_delta),
                      std::min(queries.end, keys.end + band.max_delta)};
  return static_cast<double>(std::max<std::int64_t>(0, rows.size()));
}

class RingSimulation {
 public:
  RingSimulation(const SimulatedRing& ring, SimulatedRanks& ranks)
      : ring_(ring),
        ranks_(ranks),
        layout_(*ring.layout),
        world_(ranks.size()),
        one_way_(ranks.shape.one_way()),
        routes_(layout_, ring.band, ring.reach),
        next_clock_(ranks.clock.size()),
        work_(ranks.clock.size()),
        copies_(ranks.clock.size()),
        incoming_(ranks.clock.size()),
        outgoing_(ranks.clock.size()),
        next_chain_(ranks.clock.size()) {}

  void run() {
    if (ring_.sticks != nullptr && routes_.steps() >= 2) near_ = NearKeys(layout_, ring_.key_block);
    if (near_.any() && near_keys_end_all()) {
      ranks_.steps_taken += 2;
      ranks_.steps_saved += routes_.steps() - 2;
    } else {
      pass_shards_on();
    }
    if (ring_.finishes) finish();
  }

 private:
  /// As in ring_pass.cpp: own keys while the nearest ones move, these, and a sum.
  bool near_keys_end_all() {
    walk_step(0, near_.tokens());
    double open_rows = 0.0;
    for (int rank = 0; rank < world_; ++rank) {
      routes_.fill(rank, 1, step_);
      work_[place(rank)] = 0.0;
      for (const RingPart& part : step_.parts) {
        const std::int64_t queries = layout_.chunks(rank)[static_cast<std::size_t>(part.query_chunk)].run.size();
        const std::int64_t met = std::min(near_.tokens(), layout_.local_tokens(step_.kv_rank));
        const ReachModel::Work found = ring_.sticks->before(queries, 0, met);
        work_[place(rank)] += seconds_of({1.0, found.rows, found.pairs, 0.0});
        if (step_.kv_rank > 0 || met < layout_.local_tokens(0)) {
          open_rows += ring_.heads * ring_.sticks->open_rows(queries, met);
        }
      }
    }
    ranks_.pass_compute(work_);
    ranks_.agree(ranks_.latest(), ranks_.slowest());
    is_own_met_ = true;
    return open_rows < 0.5;
  }

  void pass_shards_on() {
    pack();
    const bool exits_early = ring_.sticks != nullptr && routes_.steps() > 2;
    bool is_asked = false;
    double begun = 0.0;  // when the last rank started the sum that is under way
    int last_rank = 0;
    double open_rows = 0.0;
    int taken = 0;
    for (int index = 0; index < routes_.steps(); ++index) {
      walk_step(index, layout_.max_local_tokens());
      ++taken;
      if (!exits_early || index + 1 == routes_.steps()) continue;
      if (is_asked) {
        ranks_.agree(begun, last_rank);
        // Of all ranks' rows less than half a one is expected to be open: none is.
        if (open_rows < 0.5) break;
      }
      is_asked = true;
      begun = ranks_.latest();
      last_rank = ranks_.slowest();
      open_rows = open_rows_after(index);
    }
    if (is_asked && taken == routes_.steps()) ranks_.agree(begun, last_rank);
    ranks_.steps_taken += taken;
    ranks_.steps_saved += routes_.steps() - taken;
  }

  std::size_t place(int rank) const { return static_cast<std::size_t>(rank); }

  void pack() {
    for (int rank = 0; rank < world_; ++rank) {
      routes_.fill(rank, 0, step_);
      const double bytes = static_cast<double>(layout_.local_tokens(rank)) * ring_.token_bytes;
      work_[place(rank)] = step_.send_to >= 0 ? bytes / ring_.pack_bytes_per_second : 0.0;
    }
    ranks_.pass_finish(work_);
  }

  void finish() {
    for (int rank = 0; rank < world_; ++rank) {
      work_[place(rank)] = ring_.cost.rest_seconds(static_cast<double>(layout_.local_tokens(rank)) * ring_.heads);
    }
    ranks_.pass_finish(work_);
  }

  double seconds_of(int index, const RingPart& part, int rank, int kv_rank) {
    const TokenRun& queries = layout_.chunks(rank)[static_cast<std::size_t>(part.query_chunk)].run;
    const TokenRun& keys = layout_.chunks(kv_rank)[static_cast<std::size_t>(part.key_chunk)].run;
    KernelPoint work;
    if (ring_.sticks != nullptr) {
      const ReachModel::Work found = index == 0
                                         ? ring_.sticks->own(queries.size())
                                         : ring_.sticks->before(queries.size(), queries.begin - keys.end, keys.size());
      work = {static_cast<double>(ceil_div(keys.size(), ring_.piece_keys)), found.rows, found.pairs, 0.0};
    } else {
      work = work_of(part.band, ring_.reach, queries, keys, ring_.piece_keys);
    }
    return seconds_of(work);
  }

  double seconds_of(const KernelPoint& work) {
    const double by_pairs = ring_.heads * work.pairs * ring_.cost.pair_seconds * ring_.pair_share;
    const double fitted =
        work.calls * ring_.cost.call_seconds + ring_.heads * work.rows * ring_.cost.row_seconds + by_pairs;
    const double seconds = ring_.cost.corrected(fitted, work.calls, ring_.sticks != nullptr);
    ranks_.useful_seconds += std::min(by_pairs, seconds);
    ranks_.pairs += ring_.heads * work.pairs * ring_.pair_share;
    return seconds;
  }

  /// All ranks compute while blocks move on, of each at most so many tokens.
  void walk_step(int index, std::int64_t most_tokens) {
    for (int rank = 0; rank < world_; ++rank) {
      routes_.fill(rank, index, step_);
      double seconds = 0.0;
      if (index > 0 || !is_own_met_) {
        for (const RingPart& part : step_.parts) seconds += seconds_of(index, part, rank, step_.kv_rank);
      }
      ranks_.work_seconds += seconds;
      work_[place(rank)] = seconds;
      incoming_[place(rank)] = -1.0;
      if (step_.recv_from >= 0) {
        const std::int64_t tokens = std::min(most_tokens, layout_.local_tokens(step_.next_kv_rank));
        const double bytes = static_cast<double>(tokens) * ring_.token_bytes;
        incoming_[place(rank)] = bytes;
        ranks_.count_bytes(step_.recv_from, rank, bytes);
      }
    }
    // One neighbour alone lies on another node, each way: NICs are not shared.
    for (int rank = 0; rank < world_; ++rank) outgoing_[place((rank + world_ - 1) % world_)] = incoming_[place(rank)];
    for (int rank = 0; rank < world_; ++rank) {
      const int before = (rank + world_ - 1) % world_;
      copies_[place(rank)] = incoming_[place(rank)] >= 0.0
                                 ? shape_between(before, rank).copy_seconds(before, rank, incoming_[place(rank)], 1)
                                 : 0.0;
    }
    const std::vector<double>& computing = shared(work_, shared_work_);
    const std::vector<double>& copying = shared(copies_, shared_copies_);
    for (int rank = 0; rank < world_; ++rank) move_rank(rank, computing[place(rank)], copying[place(rank)]);
    std::swap(ranks_.clock, next_clock_);
    std::swap(ranks_.chain, next_chain_);
  }

  const std::vector<double>& shared(const std::vector<double>& alone, std::vector<double>& taken) const {
    if (ranks_.shape.ranks_per_node <= ranks_.shape.cores_per_node) return alone;
    taken = alone;
    share_processors(ranks_.shape, taken);
    return taken;
  }

  /// The end of a transfer with a neighbour, which begins once both sides are there; 0 where there is none.
  double end_of(int from, int to, double bytes) const {
    if (bytes < 0.0) return 0.0;
    const double begin = std::max(ranks_.clock[place(from)], ranks_.clock[place(to)]);
    return begin + shape_between(from, to).transfer_seconds(from, to, bytes, 1);
  }

  /// A link that goes one way at this step is faster: of two ranks under a causal mask the first has nothing to wait
  /// for.
  const ClusterShape& shape_between(int from, int to) const {
    return incoming_[place(from)] < 0.0 && outgoing_[place(to)] < 0.0 ? one_way_ : ranks_.shape;
  }

  void move_rank(int rank, double computing, double copying) {
    const std::size_t here = place(rank);
    const int before = (rank + world_ - 1) % world_;
    const int behind = (rank + 1) % world_;
    const double computed = ranks_.clock[here] + computing + copying;
    const double received = end_of(before, rank, incoming_[here]);
    const double sent = end_of(rank, behind, outgoing_[here]);
    const double now = std::max({computed, received, sent});
    ranks_.compute[here] += computing;
    ranks_.exposed[here] += now - (ranks_.clock[here] + computing);
    next_clock_[here] = now;
    Chain& chain = next_chain_[here];
    if (now == computed) {
      chain = ranks_.chain[here];
      chain.compute += computing;
      (ranks_.shape.node_of(before) == ranks_.shape.node_of(rank) ? chain.inside : chain.between) += copying;
      return;
    }
    const int other = received >= sent ? before : behind;
    const int later = ranks_.clock[place(other)] > ranks_.clock[here] ? other : rank;
    chain = ranks_.chain[place(later)];
    chain.hops += later == rank ? 0 : 1;
    const double moving = now - ranks_.clock[place(later)];
    (ranks_.shape.node_of(other) == ranks_.shape.node_of(rank) ? chain.inside : chain.between) += moving;
  }

  /// Rows that a step behind `index` can still change, expected over all ranks.
  double open_rows_after(int index) const {
    double rows = 0.0;
    for (int rank = index + 1; rank < world_; ++rank) {
      const TokenRun& queries = layout_.chunks(rank)[0].run;
      const TokenRun& met = layout_.chunks(rank - index)[0].run;
      if (queries.empty() || met.begin == 0) continue;
      rows += ring_.heads * ring_.sticks->open_rows(queries.size(), queries.begin - met.begin);
    }
    return rows;
  }

  const SimulatedRing& ring_;
  SimulatedRanks& ranks_;
  const SequenceLayout& layout_;
  int world_;
  ClusterShape one_way_;
  RingRoutes routes_;
  RingStep step_;
  NearKeys near_;
  bool is_own_met_ = false;
  std::vector<double> next_clock_;
  std::vector<double> work_, shared_work_;
  std::vector<double> copies_, shared_copies_;
  std::vector<double> incoming_, outgoing_;  // bytes; under 0: nothing moves
  std::vector<Chain> next_chain_;
};

}  // namespace

Reach reach_of(const Mechanism& mechanism, std::int64_t seq_len) {
  const auto* sparse = std::get_if<SparseParams>(&mechanism);
  if (sparse == nullptr || sparse->select != SparseSelect::kWindow) return {};
  return [window = GrowingWindow(*sparse, seq_len)](std::int64_t query) { return window.reach(query); };
}

KernelPoint work_of(const Band& band, const Reach& reach, const TokenRun& queries, const TokenRun& keys,
                    std::int64_t piece_keys) {
  KernelPoint work;
  if (queries.empty() || keys.empty()) return work;
  if (reach) {
    // The part's rows reach about as far as the one in their middle.
    const Band here = intersect(band, {-Band::kUnbounded, reach((queries.begin + queries.end) / 2)});
    return work_of(here, {}, queries, keys, piece_keys);
  }
  const bool sees_all = all_pairs(band, queries, keys);
  work.pairs = sees_all ? static_cast<double>(queries.size()) * static_cast<double>(keys.size())
                        : static_cast<double>(count_pairs(band, queries, keys));
  // As for_each_piece() cuts them: on the grid of pieces.
  for (std::int64_t end = keys.end; end > keys.begin;) {
    const std::int64_t begin = std::max(keys.begin, (end - 1) / piece_keys * piece_keys);
    work.calls += 1.0;
    work.rows += sees_all ? static_cast<double>(queries.size()) : rows_with_keys(band, queries, {begin, end});
    end = begin;
  }
  return work;
}

void simulate_ring(const SimulatedRing& ring, SimulatedRanks& ranks) {
  RingSimulation(ring, ranks).run();
}

}  // namespace ringscan
