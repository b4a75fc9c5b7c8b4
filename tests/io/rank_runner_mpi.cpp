#include <optional>

#include "comm/mpi_transport.hpp"
#include "io/mpi_file_access.hpp"
#include "tests/io/rank_runner.hpp"
#include "tests/io/scratch_folder.hpp"

namespace ringscan::test {

void on_ranks(const std::function<void(RankContext&)>& body) {
  const auto transport = make_mpi_transport(MPI_COMM_WORLD);
  std::optional<ScratchFolder> folder;
  std::string path;
  if (transport->rank() == 0) path = folder.emplace().path();
  transport->broadcast(path, 0);
  const auto access = make_mpi_file_access(MPI_COMM_WORLD, *transport);
  RankContext context{*transport, *access, path};
  body(context);
  transport->barrier();  // before rank 0 takes the folder away
}

}  // namespace ringscan::test
