#pragma once

#include <chrono>
#include <ctime>
#include <optional>

#include "core/trace.hpp"

namespace ringscan {

/// Wall-clock seconds since it was made, or since the last lap().
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  /// Seconds since the last lap, and starts the next.
  double lap() {
    const auto now = Clock::now();
    const double elapsed = std::chrono::duration<double>(now - start_).count();
    start_ = now;
    return elapsed;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

/// Processor seconds of the calling thread since it was made: what a rate is measured with where other work on the
/// machine must not count.
class ThreadStopwatch {
 public:
  double seconds() const { return now() - start_; }

 private:
  static double now() {
    std::timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  }
  double start_ = now();
};

/// Adds the seconds of its life to a figure; with a kind they are a span of the thread's trace, too.
class AddSeconds {
 public:
  explicit AddSeconds(double& target) : target_(target) {}
  AddSeconds(double& target, SpanKind kind) : target_(target) { span_.emplace(kind, begin_ns_); }
  ~AddSeconds() {
    // One pair of readings for both, so that a trace's spans sum up to the report's seconds.
    const std::int64_t end_ns = Trace::now_ns();
    if (span_) span_->end(end_ns);
    target_ += static_cast<double>(end_ns - begin_ns_) * 1e-9;
  }
  AddSeconds(const AddSeconds&) = delete;
  AddSeconds& operator=(const AddSeconds&) = delete;

 private:
  double& target_;
  std::int64_t begin_ns_ = Trace::now_ns();
  std::optional<TraceSpan> span_;
};

/// Adds the seconds of its life to a figure, and to what the thread's innermost span spent on moving transfers on.
class AddPollingSeconds {
 public:
  explicit AddPollingSeconds(double& target) : target_(target) {}
  ~AddPollingSeconds() {
    const std::int64_t elapsed_ns = Trace::now_ns() - begin_ns_;
    TraceSpan::note_polling(elapsed_ns);
    target_ += static_cast<double>(elapsed_ns) * 1e-9;
  }
  AddPollingSeconds(const AddPollingSeconds&) = delete;
  AddPollingSeconds& operator=(const AddPollingSeconds&) = delete;

 private:
  double& target_;
  std::int64_t begin_ns_ = Trace::now_ns();
};

/// What `f` returns; the time it takes is added to `seconds`.
template <typename F>
decltype(auto) timed(double& seconds, F&& f) {
  const AddSeconds adder(seconds);
  return f();
}

/// Likewise, and it is a span of the thread's trace.
template <typename F>
decltype(auto) timed(double& seconds, SpanKind kind, F&& f) {
  const AddSeconds adder(seconds, kind);
  return f();
}

}  // namespace ringscan
