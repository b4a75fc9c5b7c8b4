#include "comm/halo_schedule.hpp"

#include <cassert>

namespace ringscan {
namespace {

TokenRun tokens_of(const SequenceLayout& layout, int rank) {
  return layout.chunks(rank).front().run;
}

/// What `rank` reads before its own tokens.
TokenRun halo_of(const SequenceLayout& layout, int rank, std::int64_t halo_width) {
  const TokenRun own = tokens_of(layout, rank);
  if (own.empty()) return {own.begin, own.begin};
  return {own.begin - halo_width, own.begin};
}

}  // namespace

HaloSchedule make_halo_schedule(const SequenceLayout& layout, int rank, std::int64_t halo_width) {
  assert(layout.kind() == LayoutKind::kContiguous && 0 <= rank && rank < layout.world_size() && halo_width >= 0);
  HaloSchedule schedule;
  schedule.halo = halo_of(layout, rank, halo_width);
  const TokenRun own = tokens_of(layout, rank);
  for (int peer = 0; peer < rank; ++peer) {
    const TokenRun part = intersect(schedule.halo, tokens_of(layout, peer));
    if (!part.empty()) schedule.receives.push_back({peer, part});
  }
  for (int peer = rank + 1; peer < layout.world_size(); ++peer) {
    const TokenRun part = intersect(halo_of(layout, peer, halo_width), own);
    if (!part.empty()) schedule.sends.push_back({peer, part});
  }
  return schedule;
}

}  // namespace ringscan
