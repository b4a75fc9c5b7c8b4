#pragma once
// Whether a launcher (mpirun, srun) has started this process, from its environment: asked before MPI is.

#include <functional>
#include <optional>
#include <string>

namespace ringscan {

struct Launch {
  bool by_launcher = false;  ///< one that MPI can be started under
  int rank = 0;              ///< this process among those started together; 0 where it is the only one
  int slurm_tasks = 1;       ///< how many tasks srun started in this step
  bool by_srun = false;      ///< as a task of srun itself, with no mpirun in between
};

/// The value of a variable, or nothing.
using Environment = std::function<std::optional<std::string>(const char*)>;

Launch detect_launch(const Environment& environment);
/// From the process's own environment.
Launch detect_launch();

/// @throws Error(kBadInput), marked collective, where srun started several tasks that are not ranks of one job:
/// `world_size` is what MPI says, or 1 where it is not used.
void check_world(const Launch& launch, int world_size);

}  // namespace ringscan
