#pragma once
// Clocks of ranks on several machines, brought together.

#include <cstdint>

#include "comm/transport.hpp"

namespace ringscan {

/// How this rank's Trace::now_ns() stands to rank 0's at one time.
struct ClockReading {
  std::int64_t local_ns = 0;   ///< when it was taken, by this rank's clock
  std::int64_t offset_ns = 0;  ///< rank 0's clock minus this one's
  std::int64_t error_ns = 0;   ///< the offset is right within this: half the round trip it was taken in
};

/// Collective. Rank 0 answers each rank in turn, which keeps the round trip that took the least time of several
/// (Cristian's algorithm: F. Cristian, Probabilistic clock synchronization, Distributed Computing 3, 1989).
ClockReading read_clock_offset(Transport& transport);

/// `local_ns` by rank 0's clock: between two readings the clocks drift apart evenly.
std::int64_t to_root_clock(std::int64_t local_ns, const ClockReading& begin, const ClockReading& end);

}  // namespace ringscan
