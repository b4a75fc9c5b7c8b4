#include "comm/local_transport.hpp"
#include "tests/comm/worlds.hpp"

namespace ringscan::test {

void for_each_world(const std::function<void(Transport&)>& body) {
  for (const int world_size : {1, 2, 3, 4, 7}) run_ranks(world_size, body);
}

}  // namespace ringscan::test
