// Which items of a launch are cut along their keys: needs no GPU.
#include <algorithm>
#include <queue>
#include <vector>

#include "kernels/cuda/split_tail.hpp"
#include "tests/support/catch.hpp"

using ringscan::cuda::kMostPartBytes;
using ringscan::cuda::split_tail;
using ringscan::cuda::TailSplit;

namespace {

constexpr std::uint32_t kMultiprocessors = 132;
constexpr std::int64_t kPartialBytes = 128 * 130 * 4;

/// When the last multiprocessor ends, in tiles: each takes the next item or part as it comes free.
double makespan(const std::vector<std::int64_t>& items, const TailSplit& split) {
  std::vector<double> tasks;
  const std::size_t whole = items.size() - split.num_items;
  for (std::size_t i = 0; i < whole; ++i) tasks.push_back(static_cast<double>(items[i]));
  for (std::uint32_t part = 0; part < split.num_parts; ++part) {
    for (std::size_t i = whole; i < items.size(); ++i) {
      tasks.push_back(static_cast<double>(items[i]) / static_cast<double>(split.num_parts));
    }
  }
  std::priority_queue<double, std::vector<double>, std::greater<>> ends;
  for (std::uint32_t i = 0; i < kMultiprocessors; ++i) ends.push(0.0);
  double last = 0.0;
  for (const double tiles : tasks) {
    const double end = ends.top() + tiles + 4.0;
    ends.pop();
    ends.push(end);
    last = std::max(last, end);
  }
  return last;
}

TailSplit split_of(const std::vector<std::int64_t>& items) {
  return split_tail(static_cast<std::uint32_t>(items.size()), kMultiprocessors, kPartialBytes,
                    [&](std::uint32_t i) { return items[i]; });
}

/// `sections` heads, each with the longest rows first.
std::vector<std::int64_t> falling(std::int64_t sections, std::int64_t least, std::int64_t count) {
  std::vector<std::int64_t> items;
  for (std::int64_t section = 0; section < sections; ++section) {
    for (std::int64_t i = count; i-- > 0;) items.push_back(least + i);
  }
  return items;
}

}  // namespace

TEST_CASE("few items over a whole number of rounds are spread over all multiprocessors") {
  const std::vector<std::int64_t> items(4096, 512);  // 31 rounds and 4 items
  const TailSplit split = split_of(items);
  CHECK(split.num_items == 4);
  CHECK(split.num_parts >= 16);
  CHECK(makespan(items, {}) - makespan(items, split) > 400.0);
}

TEST_CASE("a launch with fewer items than multiprocessors is cut whole") {
  const std::vector<std::int64_t> items(16, 1000);
  const TailSplit split = split_of(items);
  CHECK(split.num_items == 16);
  CHECK(makespan(items, split) < 0.2 * makespan(items, {}));
}

TEST_CASE("a split never makes a launch longer, but for what joining takes") {
  for (const std::int64_t tiles : {1, 7, 16, 64, 128, 512, 4096}) {
    for (const std::size_t count : {1, 100, 131, 132, 133, 200, 264, 512, 1024, 2048}) {
      const std::vector<std::int64_t> items(count, tiles);
      const TailSplit split = split_of(items);
      CAPTURE(tiles, count, split.num_items, split.num_parts);
      CHECK(makespan(items, split) <= makespan(items, {}));
    }
  }
}

TEST_CASE("items that differ: the last round is cut where the shortest are long, and left where they are short") {
  const std::vector<std::int64_t> long_ones = falling(16, 257, 256);
  const TailSplit split = split_of(long_ones);
  CHECK(split.num_items == kMultiprocessors);
  CHECK(split.num_parts > 2);
  CHECK(makespan(long_ones, split) < makespan(long_ones, {}));
  CHECK(split_of(falling(16, 1, 256)).num_parts == 1);
}

TEST_CASE("nothing to cut: whole rounds, short items, none") {
  CHECK(split_of(std::vector<std::int64_t>(264, 512)).num_parts == 1);
  CHECK(split_of(std::vector<std::int64_t>(5, 3)).num_parts == 1);
  CHECK(split_of({}).num_items == 0);
}

TEST_CASE("the parts' partials stay within their memory") {
  for (const std::size_t count : {1, 4, 100, 131}) {
    const std::vector<std::int64_t> items(count, 100000);
    const TailSplit split = split_of(items);
    CHECK(std::int64_t{split.num_items} * (split.num_parts - 1) * kPartialBytes <= kMostPartBytes);
  }
}
