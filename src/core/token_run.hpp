#pragma once

#include <algorithm>
#include <cstdint>

namespace ringscan {

/// A half-open run [begin, end) of global tokens.
struct TokenRun {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  constexpr std::int64_t size() const { return end - begin; }
  constexpr bool empty() const { return end <= begin; }
  friend constexpr bool operator==(const TokenRun&, const TokenRun&) = default;
};

constexpr TokenRun intersect(const TokenRun& a, const TokenRun& b) {
  const TokenRun both{std::max(a.begin, b.begin), std::min(a.end, b.end)};
  return both.empty() ? TokenRun{both.begin, both.begin} : both;
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace ringscan
