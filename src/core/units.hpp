#pragma once
// Numbers for people.

#include <cstddef>
#include <string>

namespace ringscan {

/// "1.5 GiB", "512 B".
std::string human_bytes(std::size_t bytes);
/// "2 h 03 min", "4 min 05 s", "12.3 s", "0.450 s".
std::string human_seconds(double seconds);

}  // namespace ringscan
