#include "comm/scan_schedule.hpp"

#include <algorithm>
#include <cassert>
#include <cstddef>

namespace ringscan {

std::vector<int> scan_participants(const SequenceLayout& layout) {
  std::vector<int> ranks;
  for (int rank = 0; rank < layout.world_size(); ++rank) {
    if (layout.local_tokens(rank) > 0) ranks.push_back(rank);
  }
  return ranks;
}

namespace {

ScanSchedule schedule_at(ScanKind kind, const std::vector<int>& ranks, std::ptrdiff_t place) {
  const auto rank_at = [&](std::ptrdiff_t at) {
    return at >= 0 && at < std::ssize(ranks) ? ranks[static_cast<std::size_t>(at)] : -1;
  };
  if (ranks.size() == 1) return {};
  if (kind == ScanKind::kSerial) return {{-1, rank_at(place - 1)}, {rank_at(place + 1), -1}};
  ScanSchedule schedule;
  for (std::ptrdiff_t distance = 1; distance < std::ssize(ranks);
       distance = kind == ScanKind::kDirect ? distance + 1 : 2 * distance) {
    schedule.push_back({rank_at(place + distance), rank_at(place - distance)});
  }
  return schedule;
}

}  // namespace

ScanSchedule make_scan_schedule(ScanKind kind, const SequenceLayout& layout, int rank) {
  assert(layout.kind() == LayoutKind::kContiguous && 0 <= rank && rank < layout.world_size());
  const std::vector<int> ranks = scan_participants(layout);
  const auto own = std::find(ranks.begin(), ranks.end(), rank);
  if (own == ranks.end()) return {};
  return schedule_at(kind, ranks, own - ranks.begin());
}

std::vector<ScanSchedule> make_scan_schedules(ScanKind kind, const SequenceLayout& layout) {
  assert(layout.kind() == LayoutKind::kContiguous);
  const std::vector<int> ranks = scan_participants(layout);
  std::vector<ScanSchedule> schedules(static_cast<std::size_t>(layout.world_size()));
  for (std::ptrdiff_t place = 0; place < std::ssize(ranks); ++place) {
    schedules[static_cast<std::size_t>(ranks[static_cast<std::size_t>(place)])] = schedule_at(kind, ranks, place);
  }
  return schedules;
}

}  // namespace ringscan
