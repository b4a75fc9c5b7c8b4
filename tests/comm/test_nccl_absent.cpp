// A build without NCCL says so; linked with the stub, whatever this build has.
#include "comm/local_transport.hpp"
#include "comm/nccl_transport.hpp"
#include "core/error.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

TEST_CASE("without NCCL its transport is refused in one line") {
  REQUIRE_FALSE(has_nccl());
  run_ranks(1, [](Transport& control) {
    std::string message;
    ExitCode code = ExitCode::kDone;
    try {
      make_nccl_transport(control, {});
    } catch (const Error& error) {
      message = error.what();
      code = error.code();
    }
    REQUIRE(code == ExitCode::kBadInput);
    REQUIRE(message == "this build has no NCCL: GPUs pass keys on through host memory");
  });
}
