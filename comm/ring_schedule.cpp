#include "comm/ring_schedule.hpp"

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <span>
#include <utility>

namespace ringscan {
namespace {

bool any_visible(const Band& band, const Reach& reach, const TokenRun& queries, const TokenRun& keys) {
  if (!reach || queries.empty()) return any_pair(band, queries, keys);
  // The first row reaches farthest back, and the rows' windows leave no gap between them.
  return any_pair(intersect(band, {-Band::kUnbounded, reach(queries.begin)}), queries, keys);
}

bool has_work(const SequenceLayout& layout, const Band& band, const Reach& reach, int query_rank, int kv_rank) {
  for (const Chunk& queries : layout.chunks(query_rank)) {
    for (const Chunk& keys : layout.chunks(kv_rank)) {
      if (any_visible(band, reach, queries.run, keys.run)) return true;
    }
  }
  return false;
}

/// For each rank, how many hops its block makes: up to the last rank that has work with it. A block without tokens
/// makes none.
std::vector<int> count_hops(const SequenceLayout& layout, const Band& band, const Reach& reach) {
  const int world_size = layout.world_size();
  // Nobody before them sees them, where runs lie in the order of the ranks and later keys are not visible.
  const bool goes_forward = layout.kind() == LayoutKind::kContiguous && band.min_delta >= 0;
  std::vector<int> hops(static_cast<std::size_t>(world_size), 0);
  for (int origin = 0; origin < world_size; ++origin) {
    int hop = goes_forward ? world_size - 1 - origin : world_size - 1;
    while (hop > 0 && !has_work(layout, band, reach, (origin + hop) % world_size, origin)) --hop;
    hops[static_cast<std::size_t>(origin)] = hop;
  }
  return hops;
}

constexpr Band kUpToQuery{0, Band::kUnbounded};
constexpr Band kBehindQuery{-Band::kUnbounded, -1};

}  // namespace

RingRoutes::RingRoutes(const SequenceLayout& layout, const Band& band, Reach reach)
    : layout_(&layout),
      band_(band),
      reach_(std::move(reach)),
      // Cyclic order: the own keys up to each query come first, those behind it last.
      is_cyclic_(layout.kind() == LayoutKind::kContiguous && band.min_delta < 0),
      hops_(count_hops(layout, band, reach_)),
      last_hop_(*std::max_element(hops_.begin(), hops_.end())) {}

void RingRoutes::fill(int rank, int index, RingStep& step) const {
  const int world_size = layout_->world_size();
  assert(0 <= rank && rank < world_size && 0 <= index && index < steps());
  step.send_to = step.recv_from = step.next_kv_rank = -1;
  if (index > last_hop_) {
    step.kv_rank = rank;
    fill_parts(intersect(band_, kBehindQuery), rank, step);
    return;
  }
  step.kv_rank = (rank - index + world_size) % world_size;
  fill_parts(is_cyclic_ && index == 0 ? intersect(band_, kUpToQuery) : band_, rank, step);
  const int next_kv_rank = (step.kv_rank - 1 + world_size) % world_size;
  if (index < hops_[static_cast<std::size_t>(step.kv_rank)]) step.send_to = (rank + 1) % world_size;
  if (index < hops_[static_cast<std::size_t>(next_kv_rank)]) {
    step.recv_from = (rank - 1 + world_size) % world_size;
    step.next_kv_rank = next_kv_rank;
  }
}

/// For each run of queries its visible runs of keys, near first: a rank's later chunk is the nearer one.
void RingRoutes::fill_parts(const Band& band, int rank, RingStep& step) const {
  step.parts.clear();
  const std::span<const Chunk> queries = layout_->chunks(rank);
  const std::span<const Chunk> keys = layout_->chunks(step.kv_rank);
  for (std::size_t query_chunk = 0; query_chunk < queries.size(); ++query_chunk) {
    for (std::size_t key_chunk = keys.size(); key_chunk-- > 0;) {
      if (!any_visible(band, reach_, queries[query_chunk].run, keys[key_chunk].run)) continue;
      step.parts.push_back({static_cast<int>(query_chunk), static_cast<int>(key_chunk), band});
    }
  }
}

std::int64_t RingRoutes::moved_tokens() const {
  std::int64_t tokens = 0;
  for (int origin = 0; origin < layout_->world_size(); ++origin) {
    tokens += layout_->local_tokens(origin) * hops_[static_cast<std::size_t>(origin)];
  }
  return tokens;
}

RingSchedule make_ring_schedule(const SequenceLayout& layout, const Band& band, int rank, const Reach& reach) {
  const RingRoutes routes(layout, band, reach);
  RingSchedule schedule(static_cast<std::size_t>(routes.steps()));
  for (int index = 0; index < routes.steps(); ++index)
    routes.fill(rank, index, schedule[static_cast<std::size_t>(index)]);
  return schedule;
}

}  // namespace ringscan
