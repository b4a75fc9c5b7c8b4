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

/// For each run of queries its visible runs of keys, near first: a rank's later chunk is the nearer one.
std::vector<RingPart> parts_of(const SequenceLayout& layout, const Band& band, const Reach& reach, int query_rank,
                               int kv_rank) {
  std::vector<RingPart> parts;
  const std::span<const Chunk> queries = layout.chunks(query_rank);
  const std::span<const Chunk> keys = layout.chunks(kv_rank);
  for (std::size_t query_chunk = 0; query_chunk < queries.size(); ++query_chunk) {
    for (std::size_t key_chunk = keys.size(); key_chunk-- > 0;) {
      if (!any_visible(band, reach, queries[query_chunk].run, keys[key_chunk].run)) continue;
      parts.push_back({static_cast<int>(query_chunk), static_cast<int>(key_chunk), band});
    }
  }
  return parts;
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
  std::vector<int> hops(static_cast<std::size_t>(world_size), 0);
  for (int origin = 0; origin < world_size; ++origin) {
    int hop = world_size - 1;
    while (hop > 0 && !has_work(layout, band, reach, (origin + hop) % world_size, origin)) --hop;
    hops[static_cast<std::size_t>(origin)] = hop;
  }
  return hops;
}

}  // namespace

RingSchedule make_ring_schedule(const SequenceLayout& layout, const Band& band, int rank, const Reach& reach) {
  const int world_size = layout.world_size();
  assert(0 <= rank && rank < world_size);
  // Cyclic order: the own keys up to each query come first, those behind it last.
  const bool is_cyclic = layout.kind() == LayoutKind::kContiguous && band.min_delta < 0;
  const Band up_to_query{0, Band::kUnbounded};
  const Band behind_query{-Band::kUnbounded, -1};

  const std::vector<int> hops = count_hops(layout, band, reach);
  const int last_step = *std::max_element(hops.begin(), hops.end());
  RingSchedule schedule;
  for (int step_index = 0; step_index <= last_step; ++step_index) {
    RingStep step;
    step.kv_rank = (rank - step_index + world_size) % world_size;
    step.parts =
        parts_of(layout, is_cyclic && step_index == 0 ? intersect(band, up_to_query) : band, reach, rank, step.kv_rank);
    const int next_kv_rank = (step.kv_rank - 1 + world_size) % world_size;
    if (step_index < hops[static_cast<std::size_t>(step.kv_rank)]) step.send_to = (rank + 1) % world_size;
    if (step_index < hops[static_cast<std::size_t>(next_kv_rank)]) {
      step.recv_from = (rank - 1 + world_size) % world_size;
      step.next_kv_rank = next_kv_rank;
    }
    schedule.push_back(std::move(step));
  }
  if (is_cyclic) {
    RingStep step;
    step.kv_rank = rank;
    step.parts = parts_of(layout, intersect(band, behind_query), reach, rank, rank);
    schedule.push_back(std::move(step));
  }
  return schedule;
}

}  // namespace ringscan
