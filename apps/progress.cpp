#include "apps/progress.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <utility>

namespace ringscan {

namespace {

constexpr double kSecondsBetweenBars = 0.1;
constexpr double kSecondsBetweenLines = 10.0;
constexpr std::size_t kBarCells = 30;
// Before this, an estimate would jump about.
constexpr double kLeastFraction = 0.005;
constexpr double kLeastSeconds = 0.5;

bool is_terminal_stream(const std::ostream& out) {
  if (&out == &std::cout) return ::isatty(STDOUT_FILENO) == 1;
  if (&out == &std::cerr || &out == &std::clog) return ::isatty(STDERR_FILENO) == 1;
  return false;
}

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// "0:07", "12:34", "3:05:09": of one width from one update to the next, unlike human_seconds().
std::string clock_text(double seconds) {
  const auto whole = static_cast<long long>(std::llround(std::min(seconds, 3.6e8)));
  char text[40];
  if (whole >= 3600) {
    std::snprintf(text, sizeof(text), "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60, whole % 60);
  } else {
    std::snprintf(text, sizeof(text), "%lld:%02lld", whole / 60, whole % 60);
  }
  return text;
}

std::string percent_text(double fraction) {
  char text[16];
  // Rounded down: 100 % means done.
  std::snprintf(text, sizeof(text), "%3d %%", static_cast<int>(std::floor(fraction * 100.0)));
  return text;
}

}  // namespace

Progress::Progress(ProgressMode mode, bool is_root, std::ostream& out)
    : Progress(mode, is_root, out, is_terminal_stream(out), steady_seconds) {}

Progress::Progress(ProgressMode mode, bool is_root, std::ostream& out, bool is_terminal, Clock clock)
    : style_(Style::kLines), out_(out), clock_(std::move(clock)), start_(clock_()), shown_at_(0.0) {
  if (is_terminal || mode == ProgressMode::kOn) style_ = Style::kBar;
  if (mode == ProgressMode::kOff || !is_root) style_ = Style::kNone;
}

void Progress::update(double fraction, std::string_view phase) {
  if (style_ == Style::kNone) return;
  fraction_ = fraction > 0.0 ? std::min(fraction, 1.0) : 0.0;  // a NaN is nothing done
  const bool new_phase = phase != phase_;
  if (new_phase) phase_ = phase;
  const double elapsed = clock_() - start_;
  if (style_ == Style::kBar) {
    if (width_ == 0 || new_phase || elapsed - shown_at_ >= kSecondsBetweenBars) draw_bar(elapsed);
  } else if (elapsed - shown_at_ >= kSecondsBetweenLines) {
    print_line(elapsed);
  }
}

void Progress::finish() {
  if (style_ == Style::kBar && width_ > 0) {
    draw_bar(clock_() - start_);
    out_ << '\n' << std::flush;
  }
  style_ = Style::kNone;
}

std::string Progress::times(double elapsed) const {
  std::string text = "elapsed " + clock_text(elapsed);
  if (fraction_ >= 1.0) return text;
  text += ", left ";
  if (fraction_ < kLeastFraction || elapsed < kLeastSeconds) return text + "-:--";
  return text + clock_text(elapsed * (1.0 - fraction_) / fraction_);
}

void Progress::draw_bar(double elapsed) {
  const auto full = static_cast<std::size_t>(std::floor(fraction_ * static_cast<double>(kBarCells)));
  std::string line = "[";
  line.append(full, '#').append(kBarCells - full, '.').append("] ").append(percent_text(fraction_));
  line.append("  ").append(times(elapsed)).append("  ").append(phase_);
  const std::size_t width = line.size();
  if (width < width_) line.append(width_ - width, ' ');  // over what is left of the last one
  out_ << '\r' << line << std::flush;
  width_ = width;
  shown_at_ = elapsed;
}

void Progress::print_line(double elapsed) {
  out_ << "ringscan: " << percent_text(fraction_) << ", " << times(elapsed) << ", " << phase_ << '\n' << std::flush;
  shown_at_ = elapsed;
}

}  // namespace ringscan
