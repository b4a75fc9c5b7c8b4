// One rank of an MPI job fails alone while a file is being read and another written. The program must unwind (no
// destructor may wait for ranks that are not coming) and end the job, as apps/main does.
#include <mpi.h>

#include <cstdio>

#include "comm/mpi_transport.hpp"
#include "core/error.hpp"
#include "io/activation_file.hpp"
#include "io/mpi_file_access.hpp"

using namespace ringscan;

namespace {

void fail_alone(const std::string& input, const std::string& output) {
  const auto transport = make_mpi_transport(MPI_COMM_WORLD);
  const auto access = make_mpi_file_access(MPI_COMM_WORLD, *transport);
  {
    ActivationWriter writer(*access, input, true);
    writer.create("0", "q", ElementType::kFloat32, {1, 8, 2, 4});
    writer.finish();
  }
  ActivationReader reader(*access, input);
  ActivationWriter writer(*access, output, true);
  writer.create("0", "o", ElementType::kFloat32, {1, 8, 2, 4});
  transport->barrier();
  if (transport->rank() == transport->world_size() - 1) throw failure("alone");
  transport->barrier();  // nobody gets past this
}

}  // namespace

int main(int argc, char* argv[]) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  if (argc != 3) MPI_Abort(MPI_COMM_WORLD, 2);
  try {
    fail_alone(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "unwound: %s\n", error.what());
    MPI_Abort(MPI_COMM_WORLD, 3);
  }
  MPI_Finalize();
}
