#include "sequence/sequence_layout.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

/// First invariant that does not hold, or "".
std::string fault_of(const SequenceLayout& layout) {
  const std::int64_t tile = layout.tile();
  const bool is_zigzag = layout.kind() == LayoutKind::kZigzag;
  std::int64_t most_tokens = 0;
  std::int64_t all_tokens = 0;
  std::vector<TokenRun> runs;
  for (int rank = 0; rank < layout.world_size(); ++rank) {
    const auto chunks = layout.chunks(rank);
    const bool is_last = rank == layout.world_size() - 1;
    if (chunks.size() != (is_zigzag && !is_last ? 2u : 1u)) return "wrong number of chunks";
    std::int64_t local_begin = 0;
    for (const Chunk& chunk : chunks) {
      if (chunk.rank != rank) return "a chunk names another rank";
      if (chunk.local_begin != local_begin) return "local indices have a gap";
      if (chunk.run.size() < 0) return "a run of negative length";
      if (!chunk.run.empty() && chunk.run.begin % tile != 0) return "a run begins inside a tile";
      local_begin += chunk.run.size();
      if (is_zigzag && is_last) {  // two runs, which adjoin
        const std::int64_t middle =
            std::min(chunk.run.end, chunk.run.begin + ceil_div(ceil_div(chunk.run.size(), tile), 2) * tile);
        runs.push_back({chunk.run.begin, middle});
        runs.push_back({middle, chunk.run.end});
      } else {
        runs.push_back(chunk.run);
      }
    }
    if (chunks.size() > 1 && chunks[0].run.end > chunks[1].run.begin) return "a rank's chunks do not ascend";
    if (layout.local_tokens(rank) != local_begin) return "local_tokens is not the sum of the runs";
    most_tokens = std::max(most_tokens, local_begin);
    all_tokens += local_begin;
  }
  if (layout.max_local_tokens() != most_tokens) return "max_local_tokens is not the most";
  if (all_tokens != layout.seq_len()) return "tokens are lost";

  std::sort(runs.begin(), runs.end(), [](const TokenRun& a, const TokenRun& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  std::int64_t next = 0;
  for (const TokenRun& run : runs) {
    if (run.begin != next) return "runs overlap or leave a gap";
    next = run.end;
  }
  const auto by_tiles = [&](const TokenRun& a, const TokenRun& b) {
    return ceil_div(a.size(), tile) < ceil_div(b.size(), tile);
  };
  const auto [least, most] = std::minmax_element(runs.begin(), runs.end(), by_tiles);
  if (ceil_div(most->size(), tile) - ceil_div(least->size(), tile) > 1) return "runs are uneven by more than a tile";
  return "";
}

/// Every token's way to its rank and back.
std::string fault_of_maps(const SequenceLayout& layout) {
  for (int rank = 0; rank < layout.world_size(); ++rank) {
    std::int64_t last = -1;
    for (std::int64_t token_local = 0; token_local < layout.local_tokens(rank); ++token_local) {
      const std::int64_t token_global = layout.to_global(rank, token_local);
      if (token_global <= last) return "a rank's tokens do not ascend";
      last = token_global;
      if (layout.rank_of(token_global) != rank) return "rank_of is not the rank that holds it";
      if (layout.to_local(token_global) != token_local) return "to_local does not undo to_global";
    }
  }
  return "";
}

void require_no_fault(const SequenceLayout& layout, const std::string& fault) {
  if (fault.empty()) return;
  INFO(name_of(layout.kind()) << ", " << layout.seq_len() << " tokens, " << layout.world_size() << " ranks, tile "
                              << layout.tile());
  REQUIRE(fault == "");
}

}  // namespace

TEST_CASE("Every layout deals out every token once, in whole tiles, evenly", "[layout]") {
  for (const LayoutKind kind : {LayoutKind::kContiguous, LayoutKind::kZigzag}) {
    for (const std::int64_t tile : {1, 7, 64}) {
      for (const int world_size : {1, 2, 3, 4, 5, 7, 8, 13, 64}) {
        for (std::int64_t seq_len = 0; seq_len <= 400; seq_len += seq_len < 40 ? 1 : 37) {
          const SequenceLayout layout(kind, seq_len, world_size, tile);
          require_no_fault(layout, fault_of(layout));
          require_no_fault(layout, fault_of_maps(layout));
        }
      }
    }
  }
}

TEST_CASE("Layouts of very long sequences keep 64-bit indices", "[layout]") {
  for (const LayoutKind kind : {LayoutKind::kContiguous, LayoutKind::kZigzag}) {
    for (const int world_size : {1, 3, 64, 1000}) {
      const std::int64_t seq_len = (std::int64_t{1} << 40) + 12345;
      const SequenceLayout layout(kind, seq_len, world_size, 512);
      require_no_fault(layout, fault_of(layout));
      for (const std::int64_t token : {std::int64_t{0}, seq_len / 3, (std::int64_t{1} << 31) + 5, seq_len - 1}) {
        const int rank = layout.rank_of(token);
        REQUIRE(layout.to_global(rank, layout.to_local(token)) == token);
      }
    }
  }
}

TEST_CASE("Zigzag pairs an early run with a late one", "[layout]") {
  const SequenceLayout layout(LayoutKind::kZigzag, 80, 4, 10);
  REQUIRE(layout.chunks(0)[0].run == TokenRun{0, 10});
  REQUIRE(layout.chunks(0)[1].run == TokenRun{70, 80});
  REQUIRE(layout.chunks(2)[1].run == TokenRun{50, 60});
  REQUIRE(layout.chunks(2)[1].local_begin == 10);
  REQUIRE(layout.chunks(3).size() == 1);
  REQUIRE(layout.chunks(3)[0].run == TokenRun{30, 50});
}

TEST_CASE("Contiguous shards follow the ranks; the first ones are longer, the last may be empty", "[layout]") {
  const SequenceLayout layout(LayoutKind::kContiguous, 25, 4, 10);
  REQUIRE(layout.chunks(0)[0].run == TokenRun{0, 10});
  REQUIRE(layout.chunks(1)[0].run == TokenRun{10, 20});
  REQUIRE(layout.chunks(2)[0].run == TokenRun{20, 25});
  REQUIRE(layout.chunks(3)[0].run.empty());
  REQUIRE(layout.max_local_tokens() == 10);
}
