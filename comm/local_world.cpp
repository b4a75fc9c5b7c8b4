#include "comm/local_world.hpp"

#include <algorithm>
#include <cstring>

#include "core/error.hpp"

namespace ringscan::local {
namespace {

/// What a poll copies at most: some tens of microseconds.
constexpr std::size_t kSliceBytes = std::size_t{256} << 10;

bool are_done(const Messages& messages) {
  return std::all_of(messages.begin(), messages.end(), [](const auto& message) { return message->is_done(); });
}

}  // namespace

void World::fail(int rank) {
  const std::lock_guard lock(mutex_);
  fail_locked(rank);
}

int World::failed_rank() const {
  const std::lock_guard lock(mutex_);
  return failed_rank_;
}

void World::fail_locked(int rank) {
  if (!has_failed()) failed_rank_ = rank;
  changed_.notify_all();
}

void World::throw_if_failed() const {
  if (has_failed()) throw failure("rank " + std::to_string(failed_rank_) + " failed");
}

Messages World::post(Group& group, int rank, const Transfer& transfer) {
  Messages messages;
  // Both sides under one lock: where the second does not match, nobody has begun to copy the first.
  const std::lock_guard lock(mutex_);
  throw_if_failed();
  try {
    if (transfer.to_rank >= 0 && !transfer.send.empty()) {
      Message side;
      side.source = transfer.send.data();
      side.size_bytes = transfer.send.size();
      messages.push_back(post_side(group, rank, transfer.to_rank, side));
    }
    if (transfer.from_rank >= 0 && !transfer.receive.empty()) {
      Message side;
      side.target = transfer.receive.data();
      side.size_bytes = transfer.receive.size();
      messages.push_back(post_side(group, transfer.from_rank, rank, side));
    }
  } catch (...) {
    fail_locked(rank);
    throw;
  }
  return messages;
}

std::shared_ptr<Message> World::post_side(Group& group, int from_rank, int to_rank, const Message& side) {
  if (from_rank >= group.world_size() || to_rank >= group.world_size()) {
    throw failure("transfer from rank " + std::to_string(from_rank) + " to rank " + std::to_string(to_rank) +
                  ": there are " + std::to_string(group.world_size()) + " ranks");
  }
  auto& queue = group.unmatched[{from_rank, to_rank}];
  const bool is_sender = side.source != nullptr;
  if (queue.empty() || (queue.front()->source != nullptr) == is_sender) {
    queue.push_back(std::make_shared<Message>(side));
    return queue.back();
  }
  const std::shared_ptr<Message> message = queue.front();
  if (message->size_bytes != side.size_bytes) {
    const Message& sent = is_sender ? side : *message;
    const Message& wanted = is_sender ? *message : side;
    throw failure("rank " + std::to_string(from_rank) + " sends " + std::to_string(sent.size_bytes) +
                  " bytes where rank " + std::to_string(to_rank) + " wants " + std::to_string(wanted.size_bytes));
  }
  queue.pop_front();
  if (is_sender) message->source = side.source;
  if (!is_sender) message->target = side.target;
  changed_.notify_all();
  return message;
}

bool World::copy_slice(const Messages& messages) {
  Message* message = nullptr;
  std::size_t offset = 0;
  std::size_t count = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto claimable =
        std::find_if(messages.begin(), messages.end(), [](const auto& one) { return one->is_claimable(); });
    if (has_failed() || claimable == messages.end()) return false;
    message = claimable->get();
    offset = message->claimed_bytes;
    count = std::min(kSliceBytes, message->size_bytes - offset);
    message->claimed_bytes += count;
  }
  std::memcpy(message->target + offset, message->source + offset, count);
  const std::lock_guard lock(mutex_);
  message->copied_bytes += count;
  if (message->is_done() || has_failed()) changed_.notify_all();
  return true;
}

bool World::all_done(const Messages& messages) const {
  const std::lock_guard lock(mutex_);
  if (are_done(messages)) return true;
  throw_if_failed();
  return false;
}

bool World::await_progress(const Messages& messages) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    return has_failed() || are_done(messages) ||
           std::any_of(messages.begin(), messages.end(), [](const auto& message) { return message->is_claimable(); });
  });
  if (are_done(messages)) return true;
  if (!has_failed()) return false;
  await_copies(lock, messages);
  throw_if_failed();
  return false;
}

void World::abandon(const Messages& messages, int rank) {
  std::unique_lock lock(mutex_);
  if (are_done(messages)) return;
  fail_locked(rank);
  await_copies(lock, messages);
}

void World::await_copies(std::unique_lock<std::mutex>& lock, const Messages& messages) {
  // No slice is begun after a failure, so this is short.
  changed_.wait(lock, [&] {
    return std::none_of(messages.begin(), messages.end(), [](const auto& one) { return one->is_being_copied(); });
  });
}

std::shared_ptr<Round> World::arrive(Group& group, int rank, std::string_view call, std::string contribution) {
  const std::lock_guard lock(mutex_);
  throw_if_failed();
  const std::uint64_t index = group.next_round[static_cast<std::size_t>(rank)]++;
  std::shared_ptr<Round>& slot = group.open_rounds[index];
  if (slot == nullptr) {
    slot = std::make_shared<Round>();
    slot->call = call;
    slot->contributions.resize(static_cast<std::size_t>(group.world_size()));
    slot->duplicate = call == "duplicate" ? std::make_shared<Group>(group.world_size()) : nullptr;
  }
  const std::shared_ptr<Round> round = slot;
  if (round->call != call) {
    fail_locked(rank);
    throw failure("rank " + std::to_string(rank) + " calls " + std::string(call) + " where another rank calls " +
                  std::string(round->call));
  }
  round->contributions[static_cast<std::size_t>(rank)] = std::move(contribution);
  if (++round->arrived == group.world_size()) {
    group.open_rounds.erase(index);  // whoever still has to read it holds it
    changed_.notify_all();
  }
  return round;
}

void World::await(const Round& round) {
  std::unique_lock lock(mutex_);
  const int wanted = static_cast<int>(round.contributions.size());
  changed_.wait(lock, [&] { return has_failed() || round.arrived == wanted; });
  if (round.arrived < wanted) throw_if_failed();
}

std::shared_ptr<Group> World::first_ranks(Round& round, int count) {
  const std::lock_guard lock(mutex_);
  if (round.part == nullptr) round.part = std::make_shared<Group>(count);
  return round.part;
}

}  // namespace ringscan::local
