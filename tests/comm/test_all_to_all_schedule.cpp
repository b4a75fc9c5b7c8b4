#include <algorithm>
#include <map>
#include <vector>

#include "comm/all_to_all_schedule.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

/// Sends and receives of each ordered pair of ranks, as (tokens, channels).
using Messages = std::map<std::pair<int, int>, std::pair<TokenRun, ChannelRun>>;

}  // namespace

TEST_CASE("channels are dealt out in order, evenly, each to one rank") {
  for (const int world_size : {1, 2, 3, 7, 64}) {
    for (const std::int64_t count : {0, 1, 5, 64, 130}) {
      const ChannelRun all{10, 10 + count};
      std::int64_t next = all.begin;
      for (int rank = 0; rank < world_size; ++rank) {
        const ChannelRun mine = channels_of(all, rank, world_size);
        REQUIRE(mine.begin == next);
        REQUIRE(mine.size() >= count / world_size);
        REQUIRE(mine.size() <= count / world_size + 1);
        next = mine.end;
      }
      REQUIRE(next == all.end);
    }
  }
}

TEST_CASE("every element of the block moves once, and both ends agree on it") {
  for (const int world_size : {1, 2, 3, 4, 7, 16, 63, 64}) {
    for (const std::int64_t seq_len : {0, 1, 5, 63, 64, 1000}) {
      for (const std::int64_t channel_count : {0, 1, 3, 64, 101}) {
        const SequenceLayout layout(LayoutKind::kContiguous, seq_len, world_size, 1);
        const ChannelRun channels{4, 4 + channel_count};
        Messages sent;
        Messages received;
        for (int rank = 0; rank < world_size; ++rank) {
          const AllToAllSchedule schedule = make_all_to_all_schedule(layout, channels, rank);
          REQUIRE(schedule.tokens == layout.chunks(rank)[0].run);
          for (const AllToAllStep& step : schedule.steps) {
            REQUIRE((step.send_to >= 0 || step.recv_from >= 0));
            if (step.send_to >= 0) {
              REQUIRE(
                  sent.emplace(std::pair(rank, step.send_to), std::pair(schedule.tokens, step.send_channels)).second);
            }
            if (step.recv_from >= 0) {
              REQUIRE(received.emplace(std::pair(step.recv_from, rank), std::pair(step.recv_tokens, schedule.channels))
                          .second);
            }
          }
        }
        REQUIRE(sent == received);
        std::int64_t elements = 0;
        for (const auto& [pair, part] : sent) elements += part.first.size() * part.second.size();
        REQUIRE(elements == seq_len * channel_count);
      }
    }
  }
}

TEST_CASE("at each distance no rank is sent to twice") {
  const int world_size = 64;
  const SequenceLayout layout(LayoutKind::kContiguous, 6400, world_size, 1);
  std::vector<std::vector<int>> receivers(static_cast<std::size_t>(world_size));
  for (int rank = 0; rank < world_size; ++rank) {
    const AllToAllSchedule schedule = make_all_to_all_schedule(layout, {0, 640}, rank);
    REQUIRE(schedule.steps.size() == static_cast<std::size_t>(world_size));
    REQUIRE(schedule.steps.front().send_to == rank);
    for (std::size_t i = 0; i < schedule.steps.size(); ++i) receivers[i].push_back(schedule.steps[i].send_to);
  }
  for (std::vector<int>& step : receivers) {
    std::sort(step.begin(), step.end());
    REQUIRE(std::adjacent_find(step.begin(), step.end()) == step.end());
  }
}
