#include "comm/local_transport.hpp"
#include "tests/io/rank_runner.hpp"
#include "tests/io/scratch_folder.hpp"

namespace ringscan::test {

void on_ranks(const std::function<void(RankContext&)>& body) {
  for (const int world_size : {1, 2, 3, 4}) {
    const ScratchFolder folder;
    run_ranks(world_size, [&](Transport& transport) {
      const auto access = make_shared_file_access(transport);
      RankContext context{transport, *access, folder.path()};
      body(context);
    });
  }
}

}  // namespace ringscan::test
