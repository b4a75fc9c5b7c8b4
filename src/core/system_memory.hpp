#pragma once

#include <cstddef>

namespace ringscan {

/// What the machine could still give (Linux: MemAvailable, and no more than the control group's limit leaves).
std::size_t available_memory_bytes();
/// The most this process has had resident so far (Linux: VmHWM).
std::size_t peak_resident_bytes();

}  // namespace ringscan
