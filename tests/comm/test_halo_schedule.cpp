#include "comm/halo_schedule.hpp"

#include <map>
#include <set>

#include "tests/support/catch.hpp"

using namespace ringscan;

TEST_CASE("every rank gets exactly the tokens before its own, from whoever holds them") {
  for (const int world_size : {1, 2, 3, 4, 7, 16, 63, 64}) {
    for (const std::int64_t seq_len : {0, 1, 2, 5, 63, 64, 130, 1000}) {
      for (const std::int64_t tile : {1, 16}) {
        const SequenceLayout layout(LayoutKind::kContiguous, seq_len, world_size, tile);
        for (const std::int64_t width : {0, 1, 3, 20, 2000}) {
          std::map<std::pair<int, int>, TokenRun> sent;
          for (int rank = 0; rank < world_size; ++rank) {
            for (const HaloPart& part : make_halo_schedule(layout, rank, width).sends) {
              REQUIRE(part.peer > rank);
              REQUIRE(sent.emplace(std::pair(rank, part.peer), part.tokens).second);
              for (std::int64_t t = part.tokens.begin; t < part.tokens.end; ++t) REQUIRE(layout.rank_of(t) == rank);
            }
          }
          std::size_t received = 0;
          for (int rank = 0; rank < world_size; ++rank) {
            const HaloSchedule schedule = make_halo_schedule(layout, rank, width);
            const TokenRun own = layout.chunks(rank)[0].run;
            REQUIRE(schedule.halo.end == own.begin);
            REQUIRE(schedule.halo.size() == (own.empty() ? 0 : width));
            std::int64_t next = std::max<std::int64_t>(0, schedule.halo.begin);
            for (const HaloPart& part : schedule.receives) {
              REQUIRE(part.tokens.begin == next);
              next = part.tokens.end;
              REQUIRE(sent.at({part.peer, rank}) == part.tokens);
              ++received;
            }
            REQUIRE(next == schedule.halo.end);
          }
          REQUIRE(received == sent.size());
        }
      }
    }
  }
}

TEST_CASE("long shards send one message each") {
  const SequenceLayout layout(LayoutKind::kContiguous, 64 * 100, 64, 1);
  for (int rank = 0; rank < 64; ++rank) {
    const HaloSchedule schedule = make_halo_schedule(layout, rank, 3);
    REQUIRE(schedule.sends.size() == (rank < 63 ? 1u : 0u));
    REQUIRE(schedule.receives.size() == (rank > 0 ? 1u : 0u));
  }
}
