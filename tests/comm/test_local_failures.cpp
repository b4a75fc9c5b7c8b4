// A rank that fails ends all the others, wherever they wait.
#include <atomic>
#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "comm/local_transport.hpp"
#include "core/error.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

struct Outcome {
  std::string thrown;    ///< by run_ranks
  int told_of_rank = 0;  ///< ranks that got Error("rank N failed")
};

/// Rank `failing` throws at once; the others make `blocking_call`.
Outcome fail_one(int world_size, int failing, const std::function<void(Transport&)>& blocking_call) {
  std::atomic<int> told{0};
  Outcome outcome;
  try {
    run_ranks(world_size, [&](Transport& transport) {
      if (transport.rank() == failing) throw bad_input("no dataset q");
      try {
        blocking_call(transport);
      } catch (const Error& error) {
        if (error.what() == "rank " + std::to_string(failing) + " failed" && error.code() == ExitCode::kFailure) ++told;
        throw;
      }
    });
  } catch (const Error& error) {
    outcome.thrown = error.what();
  }
  outcome.told_of_rank = told;
  return outcome;
}

void require_all_end(const std::function<void(Transport&)>& blocking_call) {
  for (const int world_size : {2, 3, 4, 7}) {
    for (const int failing : {0, world_size - 1}) {
      const Outcome outcome = fail_one(world_size, failing, blocking_call);
      REQUIRE(outcome.thrown == "no dataset q");
      REQUIRE(outcome.told_of_rank == world_size - 1);
    }
  }
}

}  // namespace

TEST_CASE("A failed rank ends those that wait in a collective call", "[local]") {
  require_all_end([](Transport& transport) { transport.barrier(); });
  require_all_end([](Transport& transport) { transport.all_reduce(1.0, ReduceOp::kMax); });
  require_all_end([](Transport& transport) {
    std::string text;
    transport.broadcast(text, 0);
  });
  require_all_end([](Transport& transport) { transport.start_sum(1)->get(); });
  require_all_end([](Transport& transport) { transport.duplicate(); });
}

TEST_CASE("A failed rank ends those that wait for a transfer, or poll one", "[local]") {
  const auto start = [](Transport& transport, std::vector<std::byte>& buffer) {
    const int world_size = transport.world_size();
    const std::span<std::byte> bytes(buffer);
    return transport.exchange({(transport.rank() + 1) % world_size, bytes.first(bytes.size() / 2),
                               (transport.rank() + world_size - 1) % world_size, bytes.last(bytes.size() / 2)});
  };
  require_all_end([&](Transport& transport) {
    std::vector<std::byte> buffer(1'200'000);
    for (int i = 0; i < transport.world_size(); ++i) start(transport, buffer).wait();
    transport.barrier();
  });
  require_all_end([&](Transport& transport) {
    std::vector<std::byte> buffer(1'200'000);
    for (int i = 0; i < transport.world_size(); ++i) {
      Ticket moving = start(transport, buffer);
      while (!moving.poll()) {
      }
    }
    transport.barrier();
  });
}

TEST_CASE("A failed rank ends those that wait on a duplicate", "[local]") {
  for (const int world_size : {2, 5}) {
    std::atomic<int> told{0};
    std::string thrown;
    try {
      run_ranks(world_size, [&](Transport& transport) {
        const auto other = transport.duplicate();
        if (transport.rank() == 1) throw std::runtime_error("disk full");
        try {
          other->barrier();
        } catch (const Error&) {
          ++told;
          throw;
        }
      });
    } catch (const std::runtime_error& error) {
      thrown = error.what();
    }
    REQUIRE(thrown == "disk full");
    REQUIRE(told == world_size - 1);
  }
}

TEST_CASE("An exception gives up the transfers in flight instead of waiting for them", "[local]") {
  // Rank 1 never comes to its side: it waits for a barrier that rank 0 does not reach.
  std::string thrown;
  try {
    run_ranks(2, [](Transport& transport) {
      std::vector<std::byte> buffer(1000);
      if (transport.rank() == 0) {
        const Ticket moving = transport.exchange({1, buffer, -1, {}});
        throw failure("out of memory");
      }
      transport.barrier();
    });
  } catch (const Error& error) {
    thrown = error.what();
  }
  REQUIRE(thrown == "out of memory");
}

TEST_CASE("A failure in the middle of a copy waits for it to stop", "[local]") {
  // Under a sanitizer a copy into a buffer that has gone would show.
  for (int i = 0; i < 20; ++i) {
    REQUIRE_THROWS_WITH(
        run_ranks(3,
                  [](Transport& transport) {
                    if (transport.rank() == 2) throw failure("stop");
                    std::vector<std::byte> buffer(4'000'000);
                    const int peer = 1 - transport.rank();
                    transport
                        .exchange({peer, std::span(buffer).first(2'000'000), peer, std::span(buffer).last(2'000'000)})
                        .wait();
                    transport.barrier();
                  }),
        "stop");
  }
}

TEST_CASE("Sides of a transfer that differ in size are an error on both ranks", "[local]") {
  std::string thrown;
  try {
    run_ranks(2, [](Transport& transport) {
      std::vector<std::byte> buffer(200);
      if (transport.rank() == 0) transport.exchange({1, std::span(buffer).first(100), -1, {}}).wait();
      if (transport.rank() == 1) transport.exchange({-1, {}, 0, buffer}).wait();
    });
  } catch (const Error& error) {
    thrown = error.what();
  }
  REQUIRE(thrown == "rank 0 sends 100 bytes where rank 1 wants 200");
}

TEST_CASE("Ranks that make different collective calls are told so", "[local]") {
  std::string thrown;
  try {
    run_ranks(2, [](Transport& transport) {
      if (transport.rank() == 0) transport.barrier();
      if (transport.rank() == 1) transport.all_reduce(1.0, ReduceOp::kSum);
    });
  } catch (const Error& error) {
    thrown = error.what();
  }
  REQUIRE(thrown.find("barrier") != std::string::npos);
  REQUIRE(thrown.find("all_reduce") != std::string::npos);
}

TEST_CASE("A barrier lets nobody through before all have come", "[local]") {
  std::atomic<int> arrived{0};
  std::atomic<int> early{0};
  run_ranks(7, [&](Transport& transport) {
    for (int round = 1; round <= 20; ++round) {
      ++arrived;
      transport.barrier();
      if (arrived < 7 * round) ++early;
      transport.barrier();
    }
  });
  REQUIRE(early == 0);
}
