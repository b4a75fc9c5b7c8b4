#include <map>
#include <string>

#include "apps/launch.hpp"
#include "core/error.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

Launch launch_in(const std::map<std::string, std::string>& variables) {
  return detect_launch([&](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  });
}

bool is_refused(const Launch& launch, int world_size) {
  try {
    check_world(launch, world_size);
  } catch (const Error& error) {
    REQUIRE(error.code() == ExitCode::kBadInput);
    REQUIRE(error.is_collective());
    return true;
  }
  return false;
}

}  // namespace

TEST_CASE("Alone") {
  const Launch launch = launch_in({{"PATH", "/bin"}});
  REQUIRE(!launch.by_launcher);
  REQUIRE(launch.rank == 0);
  REQUIRE(!is_refused(launch, 1));
}

TEST_CASE("Under Open MPI's mpirun") {
  const Launch launch = launch_in({{"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_RANK", "2"}, {"PMIX_RANK", "2"}});
  REQUIRE(launch.by_launcher);
  REQUIRE(launch.rank == 2);
  REQUIRE(!is_refused(launch, 4));
}

TEST_CASE("Under mpiexec of MPICH") {
  const Launch launch = launch_in({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"PMI_FD", "6"}});
  REQUIRE(launch.by_launcher);
  REQUIRE(launch.rank == 1);
}

TEST_CASE("A batch script is one process") {
  const Launch launch = launch_in({{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}});
  REQUIRE(!launch.by_launcher);
  REQUIRE(!is_refused(launch, 1));
}

TEST_CASE("srun with pmix") {
  const Launch launch =
      launch_in({{"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "3"}, {"SLURM_STEP_NUM_TASKS", "8"}, {"PMIX_RANK", "3"}});
  REQUIRE(launch.by_launcher);
  REQUIRE(launch.rank == 3);
  REQUIRE(!is_refused(launch, 8));
  REQUIRE(is_refused(launch, 1));
}

TEST_CASE("srun without a PMI starts strangers") {
  const Launch launch = launch_in({{"SLURM_NTASKS", "2"}, {"SLURM_PROCID", "1"}, {"SLURM_STEP_NUM_TASKS", "2"}});
  REQUIRE(!launch.by_launcher);
  REQUIRE(launch.rank == 1);
  REQUIRE(is_refused(launch, 1));
  REQUIRE(!is_refused(launch_in({{"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}}), 1));
}

TEST_CASE("mpirun of one rank inside a larger Slurm step") {
  const Launch launch = launch_in({{"SLURM_NTASKS", "2"},
                                   {"SLURM_PROCID", "0"},
                                   {"SLURM_STEP_NUM_TASKS", "2"},
                                   {"OMPI_COMM_WORLD_SIZE", "1"},
                                   {"OMPI_COMM_WORLD_RANK", "0"}});
  REQUIRE(launch.by_launcher);
  REQUIRE(!is_refused(launch, 1));
}
