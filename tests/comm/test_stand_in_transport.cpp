// One rank of a job whose others are not there.

#include <algorithm>
#include <vector>

#include "comm/stand_in_transport.hpp"
#include "core/buffer.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/far_memory.hpp"

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

TEST_CASE(
    "where it stands in for a transport that carries a device's memory, what arrives there does so without the host") {
  test::FarMemory far;
  StandInTransport by_host(0, 2), transport(0, 2, &far);
  CHECK(!by_host.carries(far));
  CHECK(transport.carries(far));
  CHECK(transport.carries(host_memory()));
  CHECK(transport.first_ranks(2)->carries(far));
  Buffer received(12, nullptr, far);
  Ticket moving = transport.exchange({-1, {}, 1, received.bytes()});
  moving.order();
  CHECK(moving.poll());
  CHECK(far.copied_in_bytes() == 0);
  const auto* const floats = received.as<float>();
  CHECK(std::all_of(floats, floats + 3, [](float x) { return x == 0.0f; }));
  std::vector<float> here(3, 0.0f);
  transport.exchange({-1, {}, 1, std::as_writable_bytes(std::span(here))}).wait();
  CHECK(here == std::vector<float>(3, 1.0f));
}
