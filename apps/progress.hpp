#pragma once
// How far a command is, for the person who waits: a bar on a terminal, plain lines in a log.

#include <cstddef>
#include <functional>
#include <ostream>
#include <string>
#include <string_view>

#include "engine/run_config.hpp"

namespace ringscan {

/// One thread at a time; cheap enough to be told every millisecond.
class Progress {
 public:
  /// Seconds since any fixed moment.
  using Clock = std::function<double()>;

  /// auto: a bar where `out` is a terminal, else lines; on: a bar; off, and on all ranks but the root: nothing.
  Progress(ProgressMode mode, bool is_root, std::ostream& out);
  /// With another clock, and `is_terminal` in place of a look at `out`.
  Progress(ProgressMode mode, bool is_root, std::ostream& out, bool is_terminal, Clock clock);
  ~Progress() { finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `fraction` of the whole work, 0 to 1 (what is outside is taken for the nearest of the two); `phase` in a word or
  /// two.
  void update(double fraction, std::string_view phase);
  /// Ends a bar's line. Further updates show nothing.
  void finish();

 private:
  enum class Style { kNone, kBar, kLines };

  std::string times(double elapsed) const;
  void draw_bar(double elapsed);
  void print_line(double elapsed);

  Style style_;
  std::ostream& out_;
  Clock clock_;
  double start_;
  double shown_at_;  ///< seconds after the start when something was last shown
  double fraction_ = 0.0;
  std::string phase_;
  std::size_t width_ = 0;  ///< of the bar's line on the screen; 0: none yet
};

}  // namespace ringscan
