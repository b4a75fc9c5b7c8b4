#pragma once
// Ranks as processes of an MPI job; payloads in host memory.

#include <mpi.h>

#include <cstddef>
#include <memory>

#include "comm/transport.hpp"

namespace ringscan {

/// MPI counts are int: a transfer is split into pieces of at most this.
inline constexpr std::size_t kMpiPieceBytes = std::size_t{1} << 30;

/// A transport over a duplicate of `communicator`. Collective over it. MPI must stay initialised while it lives.
/// MPI's errors come as Error(kFailure) with MPI's own text; where a process of the job dies, MPI ends the job.
/// @pre 0 < piece_bytes < 2^31, the same on all ranks.
std::unique_ptr<Transport> make_mpi_transport(MPI_Comm communicator, std::size_t piece_bytes = kMpiPieceBytes);

}  // namespace ringscan
