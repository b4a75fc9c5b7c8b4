#include "core/rank_group.hpp"

#include <exception>
#include <optional>

#include "core/error.hpp"

namespace ringscan {

void run_collectively(RankGroup& group, const std::function<void()>& work) {
  std::optional<Error> mine;
  try {
    work();
  } catch (const Error& error) {
    mine = error;
  } catch (const std::exception& error) {
    mine = failure(error.what());
  }
  const std::int64_t nobody = group.world_size();
  const std::int64_t failed_rank =
      group.all_reduce(mine ? static_cast<std::int64_t>(group.rank()) : nobody, ReduceOp::kMin);
  if (failed_rank == nobody) return;

  std::string message = mine ? mine->what() : "";
  std::string code = mine ? std::to_string(static_cast<int>(mine->code())) : "";
  group.broadcast(message, static_cast<int>(failed_rank));
  group.broadcast(code, static_cast<int>(failed_rank));
  Error agreed(static_cast<ExitCode>(std::stoi(code)), message);
  agreed.set_collective();
  throw agreed;
}

}  // namespace ringscan
