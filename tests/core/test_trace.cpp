#include "core/trace.hpp"

#include <thread>

#include "core/stopwatch.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

TEST_CASE("a thread without a trace records nothing, and goes back to it after a binding") {
  Trace trace;
  double seconds = 0.0;
  timed(seconds, SpanKind::kCompute, [] {});
  {
    const TraceBinding binding(&trace);
    CHECK(Trace::of_this_thread() == &trace);
    timed(seconds, SpanKind::kCompute, [] {});
    std::thread([] { const TraceSpan span(SpanKind::kWait); }).join();
  }
  CHECK(Trace::of_this_thread() == nullptr);
  timed(seconds, SpanKind::kCompute, [] {});
  REQUIRE(trace.events().size() == 1);
  CHECK(trace.events()[0].kind == SpanKind::kCompute);
  CHECK(trace.events()[0].end_ns >= trace.events()[0].begin_ns);
}

TEST_CASE("a span is as long as what is added to the figure, less what polling took") {
  Trace trace;
  const TraceBinding binding(&trace);
  double seconds = 0.0, polling = 0.0;
  {
    const AddSeconds adder(seconds, SpanKind::kCompute);
    for (int beat = 0; beat < 3; ++beat) {
      const AddPollingSeconds poll(polling);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  REQUIRE(trace.events().size() == 1);
  const TraceEvent& event = trace.events()[0];
  CHECK(static_cast<double>(event.end_ns - event.begin_ns) * 1e-9 == Approx(seconds));
  CHECK(static_cast<double>(event.polled_ns) * 1e-9 == Approx(polling));
  CHECK(polling >= 0.003);
}

TEST_CASE("polling counts to the innermost open span, of several that nest") {
  Trace trace;
  const TraceBinding binding(&trace);
  {
    const TraceSpan outer(SpanKind::kGroup, "outer");
    {
      const TraceSpan inner(SpanKind::kCompute);
      TraceSpan::note_polling(5);
    }
    TraceSpan::note_polling(7);
  }
  TraceSpan::note_polling(11);
  REQUIRE(trace.events().size() == 2);
  CHECK(trace.events()[0].polled_ns == 5);
  CHECK(trace.events()[1].polled_ns == 7);
  CHECK(trace.events()[1].label == "outer");
}

TEST_CASE("what is beyond the room is dropped and counted, and totals go on") {
  Trace trace(3);
  const TraceBinding binding(&trace);
  trace.count_tiles(1, 10);
  for (int i = 0; i < 4; ++i) const TraceSpan span(SpanKind::kRead);
  CHECK(trace.events().size() == 2);
  CHECK(trace.tile_samples().size() == 1);
  CHECK(trace.dropped() == 2);
}
