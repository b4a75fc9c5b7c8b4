#include "io/mpi_file_access.hpp"
#include "tests/engine/access.hpp"

namespace ringscan::test {

std::unique_ptr<FileAccess> make_access(RankGroup& group) {
  return make_mpi_file_access(MPI_COMM_WORLD, group);
}

}  // namespace ringscan::test
