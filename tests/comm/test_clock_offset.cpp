#include "comm/clock_offset.hpp"

#include <cstdlib>

#include "core/trace.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using ringscan::test::expect;
using ringscan::test::for_each_world;

TEST_CASE("ranks of one machine have one clock, within the error that is said") {
  for_each_world([](Transport& transport) {
    const ClockReading reading = read_clock_offset(transport);
    expect(transport, reading.error_ns >= 0);
    expect(transport, std::llabs(reading.offset_ns) <= reading.error_ns);
    expect(transport, reading.local_ns <= Trace::now_ns());
  });
  SUCCEED();
}

TEST_CASE("between two readings the offset goes over evenly, and on behind them") {
  const ClockReading begin{1'000'000'000'000, -300, 1};
  const ClockReading end{1'000'000'001'000, -100, 1};
  CHECK(to_root_clock(begin.local_ns, begin, end) == begin.local_ns - 300);
  CHECK(to_root_clock(end.local_ns, begin, end) == end.local_ns - 100);
  CHECK(to_root_clock(begin.local_ns + 500, begin, end) == begin.local_ns + 300);
  CHECK(to_root_clock(end.local_ns + 1000, begin, end) == end.local_ns + 1100);
  CHECK(to_root_clock(5, {5, 7, 0}, {5, 7, 0}) == 12);
}
