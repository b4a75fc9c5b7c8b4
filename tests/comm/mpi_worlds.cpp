#include "comm/mpi_transport.hpp"
#include "tests/comm/worlds.hpp"

namespace ringscan::test {

void for_each_world(const std::function<void(Transport&)>& body) {
  // Whole transfers, and transfers in many pieces.
  for (const std::size_t piece_bytes : {kMpiPieceBytes, std::size_t{4099}}) {
    const auto transport = make_mpi_transport(MPI_COMM_WORLD, piece_bytes);
    body(*transport);
  }
}

}  // namespace ringscan::test
