#include "comm/local_transport.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <exception>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "comm/local_world.hpp"
#include "core/error.hpp"

namespace ringscan {
namespace {

using local::Group;
using local::Messages;
using local::Round;
using local::World;

/// Either side copies, so that a rank that waits finishes the transfer alone once both have started it, whatever its
/// peer does.
class LocalTransfer final : public Ticket::Impl {
 public:
  LocalTransfer(std::shared_ptr<World> world, int rank, Messages messages)
      : world_(std::move(world)), rank_(rank), messages_(std::move(messages)) {}

  bool poll() override {
    world_->copy_slice(messages_);
    return world_->all_done(messages_);
  }

  void wait() override {
    do {
      while (world_->copy_slice(messages_)) {
      }
    } while (!world_->await_progress(messages_));
  }

  void abandon() override { world_->abandon(messages_, rank_); }

 private:
  std::shared_ptr<World> world_;
  int rank_;
  Messages messages_;
};

template <typename T>
std::string to_bytes(std::span<const T> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

template <typename T>
T reduce_pair(T a, T b, ReduceOp op) {
  switch (op) {
    case ReduceOp::kMin:
      return std::min(a, b);
    case ReduceOp::kMax:
      return std::max(a, b);
    case ReduceOp::kSum:
      break;
  }
  return a + b;
}

/// In the order of the ranks, so that every rank finds the same bits.
template <typename T>
void reduce(const Round& round, std::span<T> values, ReduceOp op) {
  bool is_first = true;
  for (const std::string& contribution : round.contributions) {
    if (contribution.size() != values.size_bytes()) {
      throw failure("all_reduce of " + std::to_string(values.size_bytes()) + " bytes where another rank brings " +
                    std::to_string(contribution.size()));
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
      T value{};
      std::memcpy(&value, contribution.data() + i * sizeof(T), sizeof(T));
      values[i] = is_first ? value : reduce_pair(values[i], value, op);
    }
    is_first = false;
  }
}

class LocalSum final : public PendingSum {
 public:
  LocalSum(std::shared_ptr<World> world, std::shared_ptr<Round> round)
      : world_(std::move(world)), round_(std::move(round)) {}

  std::int64_t get() override {
    world_->await(*round_);
    std::int64_t sum = 0;
    reduce(*round_, std::span(&sum, 1), ReduceOp::kSum);
    return sum;
  }

 private:
  std::shared_ptr<World> world_;
  std::shared_ptr<Round> round_;
};

class LocalTransport final : public Transport {
 public:
  LocalTransport(std::shared_ptr<World> world, std::shared_ptr<Group> group, int rank)
      : world_(std::move(world)), group_(std::move(group)), rank_(rank) {}

  using RankGroup::all_reduce;

  std::string_view name() const override { return "local"; }
  int rank() const override { return rank_; }
  int world_size() const override { return group_->world_size(); }
  bool supports_threads() const override { return true; }

  void barrier() override { meet("barrier", {}); }
  void all_reduce(std::span<double> values, ReduceOp op) override {
    reduce(*meet("all_reduce", to_bytes(std::span<const double>(values))), values, op);
  }
  void all_reduce(std::span<std::int64_t> values, ReduceOp op) override {
    reduce(*meet("all_reduce", to_bytes(std::span<const std::int64_t>(values))), values, op);
  }
  void broadcast(std::string& text, int root) override {
    assert(0 <= root && root < world_size());
    const auto round = meet("broadcast", rank_ == root ? text : std::string());
    text = round->contributions[static_cast<std::size_t>(root)];
  }

  Ticket exchange(const Transfer& transfer) override {
    auto moving = std::make_unique<LocalTransfer>(world_, rank_, world_->post(*group_, rank_, transfer));
    if (transfer.to_rank >= 0) sent_bytes_ += transfer.send.size();
    return Ticket(std::move(moving));
  }

  std::unique_ptr<PendingSum> start_sum(std::int64_t value) override {
    return std::make_unique<LocalSum>(
        world_, world_->arrive(*group_, rank_, "start_sum", to_bytes(std::span<const std::int64_t>(&value, 1))));
  }

  std::unique_ptr<Transport> duplicate() override {
    return std::make_unique<LocalTransport>(world_, meet("duplicate", {})->duplicate, rank_);
  }

  std::unique_ptr<Transport> first_ranks(int count) override {
    assert(1 <= count && count <= world_size());
    // A member is the same thread under the same number, and a failure in the part ends the whole world's calls.
    const auto round = meet("first_ranks", to_bytes(std::span<const int>(&count, 1)));
    const std::shared_ptr<Group> part = world_->first_ranks(*round, count);
    if (rank_ >= count) return nullptr;
    return std::make_unique<LocalTransport>(world_, part, rank_);
  }

  void announce_failure() override { world_->fail(rank_); }

 private:
  std::shared_ptr<Round> meet(std::string_view call, std::string contribution) {
    auto round = world_->arrive(*group_, rank_, call, std::move(contribution));
    world_->await(*round);
    return round;
  }

  std::shared_ptr<World> world_;
  std::shared_ptr<Group> group_;
  int rank_;
};

}  // namespace

void run_ranks(int world_size, const std::function<void(Transport&)>& body) {
  assert(world_size >= 1);
  const auto world = std::make_shared<World>();
  const auto group = std::make_shared<Group>(world_size);
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(world_size));
  const auto run_rank = [&](int rank) {
    try {
      LocalTransport transport(world, group, rank);
      body(transport);
    } catch (...) {
      errors[static_cast<std::size_t>(rank)] = std::current_exception();
      world->fail(rank);
    }
  };
  {
    std::vector<std::jthread> threads;  // joins
    try {
      for (int rank = 1; rank < world_size; ++rank) threads.emplace_back(run_rank, rank);
      run_rank(0);
    } catch (...) {  // the system has no thread left
      errors[0] = std::current_exception();
      world->fail(0);
    }
  }
  const int first = world->failed_rank();
  if (first >= 0 && errors[static_cast<std::size_t>(first)]) {
    std::rethrow_exception(errors[static_cast<std::size_t>(first)]);
  }
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace ringscan
