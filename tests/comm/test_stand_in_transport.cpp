// One rank of a job whose others are not there.

#include <algorithm>
#include <vector>

#include "comm/stand_in_transport.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

TEST_CASE("what a rank would wait for is there at once") {
  StandInTransport transport(1, 3);
  CHECK(transport.rank() == 1);
  CHECK(transport.world_size() == 3);
  const std::vector<float> sent(5, 7.0f);
  std::vector<float> received(9, 0.0f);
  Ticket moving =
      transport.exchange({2, std::as_bytes(std::span(sent)), 0, std::as_writable_bytes(std::span(received))});
  CHECK(moving.poll());
  CHECK(std::all_of(received.begin(), received.end(), [](float x) { return x == 1.0f; }));
  CHECK(transport.sent_bytes() == 20);
  CHECK(transport.exchange_seconds() > 0.0);
  CHECK(transport.seconds_since_exchange() >= 0.0);
  CHECK(transport.start_sum(4)->get() == 4);
  CHECK(transport.first_ranks(2)->world_size() == 2);
  CHECK(transport.first_ranks(1) == nullptr);
}
