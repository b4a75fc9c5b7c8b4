#include "core/buffer.hpp"

#include <algorithm>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

static_assert(!std::is_copy_constructible_v<Buffer> && !std::is_copy_assignable_v<Buffer>);

TEST_CASE("A buffer is aligned, and counted while it lives", "[buffer]") {
  MemoryLedger ledger;
  {
    const Buffer first(1000, &ledger);
    REQUIRE(first.size_bytes() == 1000);
    REQUIRE(reinterpret_cast<std::uintptr_t>(first.data()) % Buffer::kAlignment == 0);
    REQUIRE(ledger.current_bytes() == 1000);
    {
      Buffer second(77, &ledger);
      REQUIRE(reinterpret_cast<std::uintptr_t>(second.data()) % Buffer::kAlignment == 0);
      REQUIRE(ledger.current_bytes() == 1077);
      second.fill_zero();
      const auto bytes = second.bytes();
      REQUIRE(bytes.size() == 77);
      REQUIRE(std::all_of(bytes.begin(), bytes.end(), [](std::byte byte) { return byte == std::byte{0}; }));
    }
    REQUIRE(ledger.current_bytes() == 1000);
  }
  REQUIRE(ledger.current_bytes() == 0);
  REQUIRE(ledger.peak_bytes() == 1077);
}

TEST_CASE("A buffer moves with its count", "[buffer]") {
  MemoryLedger ledger;
  Buffer first(100, &ledger);
  void* const data = first.data();
  Buffer second(std::move(first));
  REQUIRE(second.data() == data);
  REQUIRE(ledger.current_bytes() == 100);

  second = Buffer(30, &ledger);  // the old memory goes
  REQUIRE(second.size_bytes() == 30);
  REQUIRE(ledger.current_bytes() == 30);
  REQUIRE(ledger.peak_bytes() == 130);
  second = Buffer();
  REQUIRE(second.data() == nullptr);
  REQUIRE(second.size_bytes() == 0);
  REQUIRE(ledger.current_bytes() == 0);

  Buffer uncounted(64);
  uncounted.as<float>()[15] = 1.0f;
  REQUIRE(std::as_const(uncounted).as<float>()[15] == 1.0f);
}

TEST_CASE("An empty buffer holds nothing", "[buffer]") {
  MemoryLedger ledger;
  Buffer empty(0, &ledger);
  REQUIRE(empty.data() == nullptr);
  REQUIRE(empty.bytes().empty());
  empty.fill_zero();
  REQUIRE(ledger.peak_bytes() == 0);
}

TEST_CASE("Memory that is not there is an error that says how much was wanted", "[buffer]") {
  MemoryLedger ledger;
  const std::size_t too_much = std::size_t{1} << 60;
  std::string message;
  ExitCode code = ExitCode::kDone;
  try {
    const Buffer buffer(too_much, &ledger);
  } catch (const Error& error) {
    message = error.what();
    code = error.code();
  }
  REQUIRE(code == ExitCode::kFailure);
  REQUIRE(message.find(std::to_string(too_much)) != std::string::npos);
  REQUIRE(ledger.current_bytes() == 0);
  REQUIRE(ledger.peak_bytes() == 0);
}

TEST_CASE("Threads of a rank share one ledger", "[buffer]") {
  MemoryLedger ledger;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&ledger] {
        for (std::size_t i = 1; i <= 1000; ++i) ledger.add(i), ledger.remove(i);
      });
    }
  }
  REQUIRE(ledger.current_bytes() == 0);
  REQUIRE(ledger.peak_bytes() >= 1000);
  REQUIRE(ledger.peak_bytes() <= 4000);
}
