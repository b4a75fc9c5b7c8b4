// What goes wrong inside MPI comes as one of our errors.
#include <cstddef>
#include <string>
#include <vector>

#include "comm/mpi_transport.hpp"
#include "core/error.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

/// What a ring of messages of `sent` bytes, each received as `wanted` bytes, ends in on this rank.
std::string error_of_mismatch(Transport& transport, std::size_t sent, std::size_t wanted) {
  const int world_size = transport.world_size();
  const std::vector<std::byte> source(sent);
  std::vector<std::byte> target(wanted);
  try {
    transport
        .exchange(
            {(transport.rank() + 1) % world_size, source, (transport.rank() + world_size - 1) % world_size, target})
        .wait();
  } catch (const Error& error) {
    return error.code() == ExitCode::kFailure ? error.what() : "";
  }
  return "";
}

}  // namespace

TEST_CASE("A message shorter than wanted is an error, not garbage", "[mpi]") {
  const auto transport = make_mpi_transport(MPI_COMM_WORLD);
  const std::string message = error_of_mismatch(*transport, 100, 200);
  REQUIRE(message.find("sends 100 bytes where 200 are wanted") != std::string::npos);
}

TEST_CASE("A message longer than wanted is an error with MPI's own text", "[mpi]") {
  const auto transport = make_mpi_transport(MPI_COMM_WORLD);
  if (transport->world_size() == 1) return;  // Open MPI 4.1 cuts a message to oneself without a word
  const std::string message = error_of_mismatch(*transport, 200, 100);
  REQUIRE(message.find("MPI: ") != std::string::npos);
  REQUIRE(message.find("truncated") != std::string::npos);
}

TEST_CASE("A refused call is an error with MPI's own text", "[mpi]") {
  const auto transport = make_mpi_transport(MPI_COMM_WORLD);
  std::string message;
  try {
    std::string text;
    transport->broadcast(text, transport->world_size());
  } catch (const Error& error) {
    message = error.what();
  }
  REQUIRE(message.find("invalid root") != std::string::npos);
}

TEST_CASE("An exception gives up a transfer that nobody answers", "[mpi]") {
  const auto transport = make_mpi_transport(MPI_COMM_WORLD);
  std::vector<std::byte> target(1000);
  bool caught = false;
  try {
    const Ticket moving = transport->exchange({-1, {}, transport->rank(), target});
    throw failure("out of memory");
  } catch (const Error& error) {
    caught = std::string(error.what()) == "out of memory";
  }
  REQUIRE(caught);
}
