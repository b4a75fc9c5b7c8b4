#pragma once

#include <mpi.h>

#include <memory>

#include "io/file_access.hpp"

namespace ringscan {

/// Ranks as MPI processes: the mpio driver on `communicator`, whose ranks are those of `group`.
std::unique_ptr<FileAccess> make_mpi_file_access(MPI_Comm communicator, RankGroup& group);

}  // namespace ringscan
