#pragma once

#include <chrono>
#include <ctime>

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

/// Adds the seconds of its life to a figure.
class AddSeconds {
 public:
  explicit AddSeconds(double& target) : target_(target) {}
  ~AddSeconds() { target_ += watch_.seconds(); }
  AddSeconds(const AddSeconds&) = delete;
  AddSeconds& operator=(const AddSeconds&) = delete;

 private:
  Stopwatch watch_;
  double& target_;
};

/// What `f` returns; the time it takes is added to `seconds`.
template <typename F>
decltype(auto) timed(double& seconds, F&& f) {
  const AddSeconds adder(seconds);
  return f();
}

}  // namespace ringscan
