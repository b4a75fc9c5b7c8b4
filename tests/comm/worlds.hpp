#pragma once
// The same test over every transport: test_transport.cpp is linked once with worlds of threads, once with MPI's world.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <string>
#include <vector>

#include "comm/transport.hpp"
#include "core/error.hpp"

namespace ringscan::test {

/// Calls `body` on every rank of each world there is to test; what a rank throws comes out.
void for_each_world(const std::function<void(Transport&)>& body);

/// Catch2's macros may not run in several threads at once: inside a body, this ends the rank, and so the test.
inline void expect(const Transport& transport, bool holds,
                   const std::source_location& where = std::source_location::current()) {
  if (holds) return;
  throw failure("expectation of line " + std::to_string(where.line()) + " does not hold on rank " +
                std::to_string(transport.rank()) + " of " + std::to_string(transport.world_size()));
}

/// Bytes that differ from rank to rank, from message to message and along the message.
inline std::vector<std::byte> pattern(int rank, int message, std::size_t size_bytes) {
  std::vector<std::byte> bytes(size_bytes);
  auto state = static_cast<std::uint32_t>(rank * 7919 + message * 104729 + 1);
  for (std::byte& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<std::byte>(state >> 24);
  }
  return bytes;
}

}  // namespace ringscan::test
