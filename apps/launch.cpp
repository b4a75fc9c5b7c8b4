#include "apps/launch.hpp"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "core/error.hpp"

namespace ringscan {

namespace {

std::optional<int> number_of(const Environment& environment, const char* name) {
  const std::optional<std::string> text = environment(name);
  if (!text) return std::nullopt;
  int number = 0;
  const auto [end, problem] = std::from_chars(text->data(), text->data() + text->size(), number);
  if (problem != std::errc() || number < 0) return std::nullopt;
  return number;
}

}  // namespace

Launch detect_launch(const Environment& environment) {
  Launch launch;
  const bool by_mpirun = environment("OMPI_COMM_WORLD_SIZE").has_value() || environment("HYDI_CONTROL_FD").has_value();
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE", "PMI_FD"}) {
    if (environment(name)) launch.by_launcher = true;
  }
  // A batch script has SLURM_PROCID too, and is one process; only srun sets the number of a step's tasks.
  launch.by_srun = !by_mpirun && environment("SLURM_STEP_NUM_TASKS") && environment("SLURM_PROCID");
  if (launch.by_srun) launch.slurm_tasks = std::max(1, number_of(environment, "SLURM_STEP_NUM_TASKS").value_or(1));

  if (!launch.by_launcher && launch.slurm_tasks == 1) return launch;
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}) {
    if (const auto rank = number_of(environment, name)) {
      launch.rank = *rank;
      break;
    }
  }
  return launch;
}

Launch detect_launch() {
  return detect_launch([](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    if (value == nullptr) return std::nullopt;
    return value;
  });
}

void check_world(const Launch& launch, int world_size) {
  if (world_size != 1 || launch.slurm_tasks <= 1) return;
  Error error = bad_input("srun started " + std::to_string(launch.slurm_tasks) +
                          " tasks, but each of them is alone: want srun --mpi=pmix, or mpirun");
  error.set_collective();  // each of the tasks says the same
  throw error;
}

}  // namespace ringscan
