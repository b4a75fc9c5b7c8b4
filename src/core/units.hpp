#pragma once
// Numbers for people.

#include <cstddef>
#include <cstdio>
#include <span>
#include <string>

namespace ringscan {

/// "1.5 GiB", "512 B".
std::string human_bytes(std::size_t bytes);
/// "2 h 03 min", "4 min 05 s", "12.3 s", "0.450 s".
std::string human_seconds(double seconds);
/// "0-3,8"; "none" where there is none. @pre ascending.
std::string human_ranges(std::span<const int> numbers);

/// As printf() prints it.
std::string printed(const char* pattern, auto... values) {
  const int size = std::snprintf(nullptr, 0, pattern, values...);
  std::string text(static_cast<std::size_t>(size), '\0');
  std::snprintf(text.data(), text.size() + 1, pattern, values...);
  return text;
}

}  // namespace ringscan
