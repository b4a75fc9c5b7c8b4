// The order in which the attend kernels take their query tiles: needs no GPU.
#include <set>
#include <tuple>

#include "kernels/cuda/work_order.hpp"
#include "tests/support/catch.hpp"

using ringscan::cuda::AttendParams;
using ringscan::cuda::Divisor;
using ringscan::cuda::query_tile_of;
using ringscan::cuda::QueryTile;

TEST_CASE("a Divisor divides") {
  for (const std::uint32_t divisor :
       {1u, 2u, 3u, 5u, 7u, 16u, 17u, 255u, 256u, 1000u, 65535u, 1u << 20, (1u << 30) - 1, 1u << 30, (1u << 31) - 1}) {
    const Divisor by(divisor);
    REQUIRE(by.divisor() == divisor);
    for (std::uint32_t i = 0; i < 2000; ++i) {
      // Small numbers, large ones, any, and those beside multiples.
      const std::uint32_t any = (i * 2654435761u) >> 1;
      const std::uint32_t multiple = any / divisor * divisor;
      for (const std::uint32_t x : {i, 0x7FFFFFFFu - i, any, multiple, multiple == 0 ? 0 : multiple - 1}) {
        INFO(x << " by " << divisor);
        REQUIRE(by.quotient(x) == x / divisor);
      }
    }
  }
}

TEST_CASE("items are all query tiles, section by section, the last queries first") {
  constexpr int kRows = 128;
  for (const std::uint32_t batch : {1u, 3u}) {
    for (const std::uint32_t slots : {1u, 5u, 16u}) {
      for (const std::uint32_t tiles : {1u, 7u, 32u}) {
        for (const std::uint32_t streams_a_section : {1u, 2u, 4u, 15u, 48u}) {
          const std::uint32_t streams = batch * slots;
          if (streams_a_section > streams) continue;
          AttendParams p;
          p.num_slots = static_cast<int>(slots);
          p.num_query_tiles = tiles;
          p.num_items = streams * tiles;
          set_sections(p, streams, streams_a_section);
          std::set<std::tuple<int, int, std::int64_t>> seen;
          for (std::uint32_t item = 0; item < p.num_items; ++item) {
            const QueryTile tile = query_tile_of(p, item, kRows);
            const std::uint32_t stream =
                static_cast<std::uint32_t>(tile.batch) * slots + static_cast<std::uint32_t>(tile.slot);
            INFO("item " << item << " of " << streams << " streams, " << streams_a_section << " a section");
            REQUIRE(stream / streams_a_section == item / (streams_a_section * tiles));
            REQUIRE((tile.row >= 0 && tile.row % kRows == 0 && tile.row < std::int64_t{tiles} * kRows));
            if (item % (streams_a_section * tiles) == 0) REQUIRE(tile.row == std::int64_t{tiles - 1} * kRows);
            REQUIRE(seen.insert({tile.batch, tile.slot, tile.row}).second);
          }
        }
      }
    }
  }
}
