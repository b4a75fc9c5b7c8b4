#pragma once
// Ranks as threads of one process.

#include <functional>

#include "comm/transport.hpp"

namespace ringscan {

/// Runs `body` once for each of `world_size` ranks: rank 0 in the calling thread, each other in a thread of its own.
/// Returns when all are done. A transfer is one copy, made in slices by whichever side polls or waits.
/// @pre world_size >= 1.
/// @throws what the first rank to fail threw. Every other rank's calls on its transport (blocking ones, exchange() and
/// poll()) meanwhile throw Error(kFailure, "rank N failed"), so that all bodies end.
void run_ranks(int world_size, const std::function<void(Transport&)>& body);

}  // namespace ringscan
