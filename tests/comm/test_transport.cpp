// What every transport does, whatever carries the bytes. Compiled once, linked with each kind of world.
#include <algorithm>
#include <exception>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "comm/transport.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using namespace ringscan::test;

namespace {

using Bytes = std::vector<std::byte>;

int next_rank(const Transport& transport) {
  return (transport.rank() + 1) % transport.world_size();
}
int prev_rank(const Transport& transport) {
  return (transport.rank() + transport.world_size() - 1) % transport.world_size();
}

/// Blocks of unlike, odd sizes; rank 2 has an empty one.
std::size_t block_bytes(int rank, std::size_t least) {
  return rank == 2 ? 0 : least + 1001u * static_cast<std::size_t>(rank);
}

constexpr std::size_t kLongBlock = 300'001;  // more than a slice of the local transport, many pieces of the other
constexpr std::size_t kShortBlock = 5'003;

/// Every block goes all the way round; what a rank holds at the end is its own.
void pass_all_the_way_round(Transport& transport, int message, std::size_t least) {
  const int world_size = transport.world_size();
  Bytes current = pattern(transport.rank(), message, block_bytes(transport.rank(), least));
  for (int step = 0; step < world_size; ++step) {
    const int origin = (transport.rank() - step + world_size) % world_size;
    const int next_origin = (origin - 1 + world_size) % world_size;
    expect(transport, current == pattern(origin, message, block_bytes(origin, least)));
    Bytes next(block_bytes(next_origin, least));
    Ticket moving = transport.exchange({next_rank(transport), current, prev_rank(transport), next});
    moving.poll();
    moving.wait();
    expect(transport, moving.poll());  // a ticket that is done stays done
    moving.wait();
    std::swap(current, next);
  }
  expect(transport, current == pattern(transport.rank(), message, block_bytes(transport.rank(), least)));
}

}  // namespace

TEST_CASE("Blocks of unlike sizes go all the way round the ring", "[transport]") {
  for_each_world([](Transport& transport) {
    const std::size_t sent_before = transport.sent_bytes();
    pass_all_the_way_round(transport, 1, kLongBlock);
    std::size_t all_blocks = 0;
    for (int rank = 0; rank < transport.world_size(); ++rank) all_blocks += block_bytes(rank, kLongBlock);
    expect(transport, transport.sent_bytes() - sent_before == all_blocks);
  });
}

TEST_CASE("Polling alone completes a transfer", "[transport]") {
  for_each_world([](Transport& transport) {
    const Bytes sent = pattern(transport.rank(), 2, 600'011);
    Bytes received(sent.size());
    Ticket moving = transport.exchange({next_rank(transport), sent, prev_rank(transport), received});
    while (!moving.poll()) std::this_thread::yield();
    expect(transport, received == pattern(prev_rank(transport), 2, sent.size()));
    transport.barrier();
  });
}

TEST_CASE("A rank may only send, only receive, or do neither", "[transport]") {
  for_each_world([](Transport& transport) {
    const int last = transport.world_size() - 1;
    const Bytes sent = pattern(0, 3, 70'001);
    Bytes received(transport.rank() == last ? sent.size() : 0);
    Transfer transfer;
    if (transport.rank() == 0) {
      transfer.to_rank = last;
      transfer.send = sent;
    }
    if (transport.rank() == last) {
      transfer.from_rank = 0;
      transfer.receive = received;
    }
    Ticket moving = transport.exchange(transfer);
    moving.wait();
    if (transport.rank() == last) expect(transport, received == sent);

    // No bytes: nothing moves, with a partner named or without.
    transport.exchange({next_rank(transport), {}, prev_rank(transport), {}}).wait();
    transport.exchange({next_rank(transport), {}, -1, {}}).wait();
    Ticket nothing;
    expect(transport, nothing.poll());
    nothing.wait();
  });
}

TEST_CASE("Many transfers in flight match in the order they were started", "[transport]") {
  for_each_world([](Transport& transport) {
    const int world_size = transport.world_size();
    const int messages = 5;
    const auto size_of_message = [](int from, int to, int message) {
      return static_cast<std::size_t>((from * 31 + to * 17 + message * 1999) % 9001);  // some are empty
    };
    // All at once, to and from everyone, oneself included.
    std::vector<Bytes> sent;
    std::vector<Bytes> received;
    std::vector<Ticket> tickets;
    for (int message = 0; message < messages; ++message) {
      for (int shift = 0; shift < world_size; ++shift) {
        const int to = (transport.rank() + shift) % world_size;
        const int from = (transport.rank() + world_size - shift) % world_size;
        sent.push_back(
            pattern(transport.rank(), message * world_size + to, size_of_message(transport.rank(), to, message)));
        received.emplace_back(size_of_message(from, transport.rank(), message));
        tickets.push_back(transport.exchange({to, sent.back(), from, received.back()}));
      }
    }
    for (auto ticket = tickets.rbegin(); ticket != tickets.rend(); ++ticket) ticket->wait();  // the last one first
    std::size_t index = 0;
    for (int message = 0; message < messages; ++message) {
      for (int shift = 0; shift < world_size; ++shift, ++index) {
        const int from = (transport.rank() + world_size - shift) % world_size;
        expect(transport, received[index] == pattern(from, message * world_size + transport.rank(),
                                                     size_of_message(from, transport.rank(), message)));
      }
    }
  });
}

TEST_CASE("Transfers that start as one end as one", "[transport]") {
  for_each_world([](Transport& transport) {
    const int rank = transport.rank(), ranks = transport.world_size();
    const Bytes own = pattern(rank, 6, block_bytes(rank, kLongBlock));
    for (const bool polls : {false, true}) {
      std::vector<Bytes> received;
      for (int from = 0; from < rank; ++from) received.emplace_back(block_bytes(from, kLongBlock));
      std::vector<Transfer> transfers(1);
      for (int distance = 1; distance < ranks; ++distance) {
        Transfer& transfer = transfers.emplace_back();
        if (rank + distance < ranks) transfer.to_rank = rank + distance, transfer.send = own;
        if (rank - distance < 0) continue;
        transfer.from_rank = rank - distance;
        transfer.receive = received[static_cast<std::size_t>(rank - distance)];
      }
      Ticket moving = transport.exchange_all(transfers);
      while (polls && !moving.poll()) std::this_thread::yield();
      moving.wait();
      for (int from = 0; from < rank; ++from) {
        expect(transport, received[static_cast<std::size_t>(from)] == pattern(from, 6, block_bytes(from, kLongBlock)));
      }
    }
    transport.exchange_all({}).wait();
  });
}

TEST_CASE("Waiting for one direction does not hold up the other", "[transport]") {
  for_each_world([](Transport& transport) {
    // Each rank waits for its send before it touches its receive.
    const Bytes sent = pattern(transport.rank(), 4, 600'011);
    Bytes received(sent.size());
    Ticket receiving = transport.exchange({-1, {}, prev_rank(transport), received});
    Ticket sending = transport.exchange({next_rank(transport), sent, -1, {}});
    sending.wait();
    receiving.wait();
    expect(transport, received == pattern(prev_rank(transport), 4, sent.size()));
  });
}

TEST_CASE("Destroying or assigning to a ticket waits for its transfer", "[transport]") {
  for_each_world([](Transport& transport) {
    const Bytes first = pattern(transport.rank(), 5, 400'009);
    const Bytes second = pattern(transport.rank(), 6, 300'007);
    Bytes first_received(first.size());
    Bytes second_received(second.size());
    {
      Ticket moving = transport.exchange({next_rank(transport), first, prev_rank(transport), first_received});
      moving = transport.exchange({next_rank(transport), second, prev_rank(transport), second_received});
      expect(transport, first_received == pattern(prev_rank(transport), 5, first.size()));
      const Ticket holder = std::move(moving);
    }
    expect(transport, second_received == pattern(prev_rank(transport), 6, second.size()));
    transport.barrier();
  });
}

TEST_CASE("Reductions give every rank the same result", "[transport]") {
  for_each_world([](Transport& transport) {
    const std::int64_t world_size = transport.world_size();
    const std::int64_t rank = transport.rank();
    expect(transport, transport.all_reduce(rank + 1, ReduceOp::kSum) == world_size * (world_size + 1) / 2);
    expect(transport, transport.all_reduce(10 - rank, ReduceOp::kMin) == 11 - world_size);
    expect(transport, transport.all_reduce(10 - rank, ReduceOp::kMax) == 10);
    expect(transport, transport.all_reduce(static_cast<double>(rank) + 0.5, ReduceOp::kMax) ==
                          static_cast<double>(world_size) - 0.5);
    expect(transport,
           transport.all_reduce(static_cast<double>(-rank), ReduceOp::kMin) == static_cast<double>(1 - world_size));

    std::vector<double> values(1001);
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = 0.1 * static_cast<double>(rank + 1) + 1.0 / static_cast<double>(i + 1);
    transport.all_reduce(std::span<double>(values), ReduceOp::kSum);
    std::vector<double> least = values;
    std::vector<double> most = values;
    transport.all_reduce(std::span<double>(least), ReduceOp::kMin);
    transport.all_reduce(std::span<double>(most), ReduceOp::kMax);
    expect(transport, least == values && most == values);  // bit for bit
    transport.all_reduce(std::span<std::int64_t>(), ReduceOp::kSum);
  });
}

TEST_CASE("Broadcasts carry any text from any rank", "[transport]") {
  for_each_world([](Transport& transport) {
    for (int root = 0; root < transport.world_size(); ++root) {
      for (const std::size_t length : {std::size_t{0}, std::size_t{1}, std::size_t{10'007}}) {
        std::string text = "what rank " + std::to_string(transport.rank()) + " had before";
        if (transport.rank() == root) text = std::string(length, static_cast<char>('a' + root));
        transport.broadcast(text, root);
        expect(transport, text == std::string(length, static_cast<char>('a' + root)));
      }
    }
  });
}

TEST_CASE("Sums are on their way while other calls are made", "[transport]") {
  for_each_world([](Transport& transport) {
    const std::int64_t world_size = transport.world_size();
    std::vector<std::unique_ptr<PendingSum>> sums;
    for (int i = 0; i < 20; ++i) sums.push_back(transport.start_sum(1'000'000'000'000 * i + transport.rank()));
    pass_all_the_way_round(transport, 7, kShortBlock);
    transport.barrier();
    for (int i = 19; i >= 0; i -= 2) {  // every other one is never asked for
      const std::int64_t wanted = 1'000'000'000'000 * i * world_size + world_size * (world_size - 1) / 2;
      expect(transport, sums[static_cast<std::size_t>(i)]->get() == wanted);
      expect(transport, sums[static_cast<std::size_t>(i)]->get() == wanted);
    }
  });
}

TEST_CASE("A duplicate keeps its traffic apart", "[transport]") {
  for_each_world([](Transport& transport) {
    const std::unique_ptr<Transport> other = transport.duplicate();
    expect(transport, other->rank() == transport.rank() && other->world_size() == transport.world_size());
    expect(transport, other->name() == transport.name());
    // Started in opposite orders on sender and receiver: only the group tells the two apart.
    const Bytes mine = pattern(transport.rank(), 8, 3001);
    const Bytes others = pattern(transport.rank(), 9, 3001);
    Bytes mine_received(mine.size());
    Bytes others_received(others.size());
    Ticket receiving_other = other->exchange({-1, {}, prev_rank(transport), others_received});
    Ticket receiving = transport.exchange({-1, {}, prev_rank(transport), mine_received});
    Ticket sending = transport.exchange({next_rank(transport), mine, -1, {}});
    Ticket sending_other = other->exchange({next_rank(transport), others, -1, {}});
    receiving.wait();
    receiving_other.wait();
    sending_other.wait();
    sending.wait();
    expect(transport, mine_received == pattern(prev_rank(transport), 8, mine.size()));
    expect(transport, others_received == pattern(prev_rank(transport), 9, others.size()));
    expect(transport, other->sent_bytes() == others.size());
  });
}

TEST_CASE("The first ranks are a group of their own", "[transport]") {
  for_each_world([](Transport& transport) {
    for (const int count : {1, 2, 3, 4, 7}) {
      if (count > transport.world_size()) continue;
      const std::unique_ptr<Transport> part = transport.first_ranks(count);
      expect(transport, (part != nullptr) == (transport.rank() < count));
      if (part == nullptr) continue;
      expect(transport, part->rank() == transport.rank() && part->world_size() == count);
      pass_all_the_way_round(*part, count, kShortBlock);
      const std::int64_t sum = part->all_reduce(std::int64_t{1}, ReduceOp::kSum);
      expect(transport, sum == count);
      std::string text = part->rank() == count - 1 ? "last" : "";
      part->broadcast(text, count - 1);
      expect(transport, text == "last");
      // Groups of a part, too.
      const std::unique_ptr<Transport> again = part->duplicate();
      const std::unique_ptr<Transport> smaller = part->first_ranks((count + 1) / 2);
      expect(transport, again->world_size() == count);
      expect(transport, (smaller != nullptr) == (part->rank() < (count + 1) / 2));
      if (smaller != nullptr) pass_all_the_way_round(*smaller, count + 1, kShortBlock);
    }
    transport.barrier();
  });
}

TEST_CASE("A duplicate serves a second thread", "[transport]") {
  for_each_world([](Transport& transport) {
    const std::unique_ptr<Transport> other = transport.duplicate();
    if (!transport.supports_threads()) return;
    std::exception_ptr error;
    std::thread second([&] {
      try {
        for (int i = 0; i < 3; ++i) {
          pass_all_the_way_round(*other, 10 + i, kShortBlock);
          const std::int64_t sum = other->all_reduce(std::int64_t{1}, ReduceOp::kSum);
          expect(*other, sum == other->world_size());
          std::string text = "layer";
          other->broadcast(text, 0);
        }
      } catch (...) {
        error = std::current_exception();
      }
    });
    try {
      for (int i = 0; i < 3; ++i) {
        const auto sum = transport.start_sum(transport.rank());
        pass_all_the_way_round(transport, 20 + i, kShortBlock);
        expect(transport, sum->get() == transport.world_size() * (transport.world_size() - 1) / 2);
      }
    } catch (...) {
      second.join();
      throw;
    }
    second.join();
    if (error) std::rethrow_exception(error);
  });
}

TEST_CASE("All ranks throw the error of the lowest rank that has one", "[transport]") {
  for_each_world([](Transport& transport) {
    run_collectively(transport, [] {});
    for (int lowest = 0; lowest < transport.world_size(); ++lowest) {
      bool has_thrown = false;
      try {
        run_collectively(transport, [&] {
          if (transport.rank() >= lowest) throw bad_input("rank " + std::to_string(transport.rank()) + " read NaN");
        });
      } catch (const Error& error) {
        has_thrown = true;
        expect(transport, error.code() == ExitCode::kBadInput && error.is_collective());
        expect(transport, error.what() == "rank " + std::to_string(lowest) + " read NaN");
      }
      expect(transport, has_thrown);
    }
    pass_all_the_way_round(transport, 11, kShortBlock);  // the group goes on
  });
}

TEST_CASE("A transfer with a rank that does not exist is refused", "[transport]") {
  std::string message;
  try {
    for_each_world([](Transport& transport) {
      const Bytes sent(10);
      transport.exchange({transport.world_size() + 5, sent, -1, {}}).wait();
    });
  } catch (const Error& error) {
    message = error.what();
  }
  REQUIRE(message.find("ranks") != std::string::npos);
}
