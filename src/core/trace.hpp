#pragma once
// What a rank did when: spans of time and counters, kept in memory until the run is over.

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace ringscan {

/// What a span of time went to. kGroup encloses the others of one head group or block.
enum class SpanKind { kGroup, kCompute, kFinish, kStaging, kWait, kRead, kWrite, kSend, kReceive };

/// Which of a rank's threads: the one that computes, or the one that reads, writes and copies to a device beside it.
enum class TraceThread { kCompute, kIo };

struct TraceEvent {
  SpanKind kind = SpanKind::kCompute;
  TraceThread thread = TraceThread::kCompute;  ///< the one that recorded it
  std::int64_t begin_ns = 0;                   ///< Trace::now_ns()
  std::int64_t end_ns = 0;                     ///< likewise; >= begin_ns
  std::int64_t polled_ns = 0;                  ///< of it, spent on moving transfers on
  std::size_t bytes = 0;                       ///< kSend, kReceive: the payload
  int peer = -1;                               ///< kSend, kReceive: the other rank
  std::string label;                           ///< more than the kind says; may be empty
};

/// Tiles of attention up to a time, since the trace began.
struct TileSample {
  std::int64_t time_ns = 0;
  std::int64_t computed = 0;
  std::int64_t skipped = 0;
};

/// One rank's recorder, for all of its threads. It is found through the thread (TraceBinding), not passed on: every
/// pass times itself, and none but the program's `run` need know whether somebody looks.
class Trace {
 public:
  static constexpr std::size_t kMostEvents = std::size_t{1} << 18;

  /// Spans and samples beyond `most_events` are dropped and counted.
  explicit Trace(std::size_t most_events = kMostEvents) : most_events_(most_events) {}
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

  /// The process's steady clock; of no meaning to other processes.
  static std::int64_t now_ns();
  /// That of the calling thread; null: none is kept.
  static Trace* of_this_thread();

  void record(TraceEvent event);
  /// Adds to the totals.
  void count_tiles(std::int64_t computed, std::int64_t skipped);

  // Only once the other threads record no more.
  const std::vector<TraceEvent>& events() const { return events_; }
  const std::vector<TileSample>& tile_samples() const { return tile_samples_; }
  std::size_t dropped() const { return dropped_; }

 private:
  bool has_room();  // with the lock held

  std::mutex mutex_;
  std::size_t most_events_;
  std::vector<TraceEvent> events_;
  std::vector<TileSample> tile_samples_;
  TileSample tiles_;
  std::size_t dropped_ = 0;
};

/// While it lives, what the calling thread does goes to `trace` as done by `thread`; null: nowhere.
class TraceBinding {
 public:
  explicit TraceBinding(Trace* trace, TraceThread thread = TraceThread::kCompute);
  ~TraceBinding();
  TraceBinding(const TraceBinding&) = delete;
  TraceBinding& operator=(const TraceBinding&) = delete;

 private:
  Trace* before_;
  TraceThread thread_before_;
};

/// Records its life, where the thread has a trace; else it costs a branch. Spans of one thread nest.
class TraceSpan {
 public:
  explicit TraceSpan(SpanKind kind, std::string_view label = {});
  /// It began at `begin_ns`, a reading that the caller has at hand.
  TraceSpan(SpanKind kind, std::int64_t begin_ns);
  ~TraceSpan();
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

  /// Ends it before its life does, at a reading that the caller has at hand.
  void end(std::int64_t end_ns);
  /// `elapsed_ns` of the calling thread's innermost open span went to moving transfers on.
  static void note_polling(std::int64_t elapsed_ns);

 private:
  void open(SpanKind kind, std::int64_t begin_ns);

  Trace* trace_;
  TraceSpan* outer_ = nullptr;
  TraceEvent event_;
};

}  // namespace ringscan
