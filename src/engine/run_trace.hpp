#pragma once
// A run's timeline, of all ranks, as a file that Perfetto and chrome://tracing open (docs/tracing.md).

#include <string>

#include "comm/clock_offset.hpp"
#include "comm/traced_transport.hpp"
#include "core/trace.hpp"

namespace ringscan {

/// While it lives, what the thread that made it does, and the I/O threads that this one makes, is recorded.
class RunTrace {
 public:
  /// Collective. `transport` must outlive it. @throws Error(kFailure) where another rank has failed.
  explicit RunTrace(Transport& transport, std::size_t most_events = Trace::kMostEvents);

  /// What the run is to use, for its transfers to be seen.
  Transport& transport() { return traced_; }
  const Trace& trace() const { return trace_; }

  /// Collective. Rank 0 gathers the ranks' events, part by part, into `path`: one JSON object of the trace event format
  /// (N. Duca and D. Sinclair, Trace Event Format, 2016), times in microseconds by rank 0's clock since the beginning.
  /// Whole or not at all; a file of that name is replaced. @throws Error(kFailure) where it cannot.
  void write(const std::string& path);

 private:
  Transport& plain_;
  Trace trace_;
  TracedTransport traced_;
  ClockReading begin_;
  TraceBinding binding_;
};

}  // namespace ringscan
