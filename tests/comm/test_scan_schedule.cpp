// Scans of up to 64 ranks, carried out on strings: a combine that shows what was joined, in which order and how often.
#include "comm/scan_schedule.hpp"

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

struct RankState {
  std::string before;
  std::string through;
};

/// Step by step over all ranks; what is sent is what stood there when the step began. The serial scan's steps follow
/// one another along the ranks, so that a message is looked for where its sender is that far.
class Scan {
 public:
  Scan(ScanKind kind, const SequenceLayout& layout) : kind_(kind) {
    for (int rank = 0; rank < layout.world_size(); ++rank) {
      schedules_.push_back(make_scan_schedule(kind, layout, rank));
      const std::string own = layout.local_tokens(rank) > 0 ? std::string(1, static_cast<char>('0' + rank)) : "";
      states_.push_back({"", own});
      next_.push_back(0);
    }
  }

  /// Carries out one step of every rank whose message is there; false where none could.
  bool advance() {
    bool moved = false;
    // Sending never waits.
    for (std::size_t rank = 0; rank < schedules_.size(); ++rank) {
      if (next_[rank] == schedules_[rank].size() || sent_ahead_[{rank, next_[rank]}]) continue;
      const ScanStep& step = schedules_[rank][next_[rank]];
      if (step.send_to >= 0) {
        mail_[{rank, static_cast<std::size_t>(step.send_to)}].push_back(states_[rank].through);
        ++messages_;
      }
      sent_ahead_[{rank, next_[rank]}] = true;
    }
    for (std::size_t rank = 0; rank < schedules_.size(); ++rank) {
      if (next_[rank] == schedules_[rank].size()) continue;
      const ScanStep& step = schedules_[rank][next_[rank]];
      if (step.recv_from >= 0) {
        auto& box = mail_[{static_cast<std::size_t>(step.recv_from), rank}];
        if (box.empty()) continue;
        states_[rank].before = box.front() + states_[rank].before;
        if (kind_ != ScanKind::kDirect) states_[rank].through = box.front() + states_[rank].through;
        box.erase(box.begin());
      }
      ++next_[rank];
      moved = true;
    }
    return moved;
  }
  bool mail_is_empty() const {
    return std::all_of(mail_.begin(), mail_.end(), [](const auto& box) { return box.second.empty(); });
  }
  bool is_finished(std::size_t rank) const { return next_[rank] == schedules_[rank].size(); }
  const RankState& state(std::size_t rank) const { return states_[rank]; }
  const ScanSchedule& schedule(std::size_t rank) const { return schedules_[rank]; }
  int messages() const { return messages_; }

 private:
  ScanKind kind_;
  std::vector<ScanSchedule> schedules_;
  std::vector<RankState> states_;
  std::vector<std::size_t> next_;
  std::map<std::pair<std::size_t, std::size_t>, std::vector<std::string>> mail_;
  std::map<std::pair<std::size_t, std::size_t>, bool> sent_ahead_;
  int messages_ = 0;
};

int log2_up(int n) {
  int steps = 0;
  while ((1 << steps) < n) ++steps;
  return steps;
}

std::size_t steps_of(ScanKind kind, int participants) {
  if (kind == ScanKind::kSerial) return participants > 1 ? 2 : 0;
  return static_cast<std::size_t>(kind == ScanKind::kDirect ? std::max(0, participants - 1) : log2_up(participants));
}

int messages_of(ScanKind kind, int participants) {
  if (kind == ScanKind::kSerial) return participants - 1;
  if (kind == ScanKind::kDirect) return participants * (participants - 1) / 2;
  return participants * log2_up(participants) - (1 << log2_up(participants)) + 1;
}

void check(ScanKind kind, const SequenceLayout& layout) {
  Scan scan(kind, layout);
  while (scan.advance()) {
  }
  REQUIRE(scan.mail_is_empty());
  const auto participants = static_cast<int>(scan_participants(layout).size());
  std::string before;
  for (int rank = 0; rank < layout.world_size(); ++rank) {
    const auto at = static_cast<std::size_t>(rank);
    REQUIRE(scan.is_finished(at));
    if (layout.local_tokens(rank) == 0) {
      REQUIRE(scan.schedule(at).empty());
      continue;
    }
    REQUIRE(scan.state(at).before == before);
    before += static_cast<char>('0' + rank);
    REQUIRE(scan.schedule(at).size() == steps_of(kind, participants));
  }
  if (participants == 0) return;
  REQUIRE(scan.messages() == messages_of(kind, participants));
}

}  // namespace

TEST_CASE("each rank gets all ranks before it, once and in order, for 1 to 64 ranks") {
  for (const ScanKind kind : {ScanKind::kLogarithmic, ScanKind::kSerial, ScanKind::kDirect}) {
    for (int world_size = 1; world_size <= 64; ++world_size) {
      check(kind, SequenceLayout(LayoutKind::kContiguous, 1000, world_size, 1));
    }
  }
}

TEST_CASE("ranks without a token take no part, wherever they stand") {
  for (const ScanKind kind : {ScanKind::kLogarithmic, ScanKind::kSerial, ScanKind::kDirect}) {
    for (const int world_size : {1, 2, 3, 5, 8, 13, 64}) {
      for (const std::int64_t seq_len : {0, 1, 2, 3, 5, 11, 40, 200}) {
        for (const std::int64_t tile : {1, 4, 64}) {
          check(kind, SequenceLayout(LayoutKind::kContiguous, seq_len, world_size, tile));
        }
      }
    }
  }
}
