#include "core/rank_group.hpp"

#include <atomic>
#include <stdexcept>
#include <string>

#include "comm/local_transport.hpp"
#include "core/error.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

TEST_CASE("A group of one agrees with itself", "[rank_group]") {
  SoloGroup group;
  REQUIRE(group.rank() == 0);
  REQUIRE(group.world_size() == 1);
  REQUIRE(group.all_reduce(2.5, ReduceOp::kSum) == 2.5);
  REQUIRE(group.all_reduce(std::int64_t{7}, ReduceOp::kMin) == 7);
  std::string text = "as it was";
  group.broadcast(text, 0);
  REQUIRE(text == "as it was");
  int calls = 0;
  run_collectively(group, [&] { ++calls; });
  REQUIRE(calls == 1);
}

TEST_CASE("In a group of one an error comes out as it is, marked collective", "[rank_group]") {
  SoloGroup group;
  for (const ExitCode code : {ExitCode::kBadInput, ExitCode::kFailure, ExitCode::kStopped}) {
    bool is_same = false;
    try {
      run_collectively(group, [&] { throw Error(code, "in.h5: no dataset q"); });
    } catch (const Error& error) {
      is_same = error.code() == code && error.is_collective() && error.what() == std::string("in.h5: no dataset q");
    }
    REQUIRE(is_same);
  }
}

TEST_CASE("Another exception than ours becomes a failure", "[rank_group]") {
  SoloGroup group;
  bool is_failure = false;
  try {
    run_collectively(group, [] { throw std::runtime_error("bad_alloc"); });
  } catch (const Error& error) {
    is_failure = error.code() == ExitCode::kFailure && error.what() == std::string("bad_alloc");
  }
  REQUIRE(is_failure);
}

TEST_CASE("All ranks throw one error, and can go on together", "[rank_group]") {
  // Each set of failing ranks of a world of four.
  for (unsigned failing = 1; failing < 16; ++failing) {
    std::atomic<int> agreed{0};
    run_ranks(4, [&](Transport& group) {
      int lowest = 0;
      while ((failing >> lowest & 1u) == 0) ++lowest;
      try {
        run_collectively(group, [&] {
          if ((failing >> group.rank() & 1u) == 0) return;
          throw Error(group.rank() % 2 == 0 ? ExitCode::kBadInput : ExitCode::kFailure,
                      "from rank " + std::to_string(group.rank()));
        });
      } catch (const Error& error) {
        const ExitCode code = lowest % 2 == 0 ? ExitCode::kBadInput : ExitCode::kFailure;
        if (error.what() == "from rank " + std::to_string(lowest) && error.code() == code && error.is_collective()) {
          ++agreed;
        }
      }
      group.barrier();
    });
    REQUIRE(agreed == 4);
  }
}
