#pragma once
// What the threads of one run_ranks() share: messages on their way, collective calls, and whether a rank has failed.

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "comm/transport.hpp"

namespace ringscan::local {

/// One message: sender's and receiver's spans, joined once both have started it.
struct Message {
  const std::byte* source = nullptr;
  std::byte* target = nullptr;
  std::size_t size_bytes = 0;
  std::size_t claimed_bytes = 0;  ///< some thread copies, or has copied, these
  std::size_t copied_bytes = 0;

  bool is_matched() const { return source != nullptr && target != nullptr; }
  bool is_done() const { return copied_bytes == size_bytes; }
  bool is_claimable() const { return is_matched() && claimed_bytes < size_bytes; }
  bool is_being_copied() const { return copied_bytes < claimed_bytes; }
};

using Messages = std::vector<std::shared_ptr<Message>>;

/// One collective call: what each rank brought to it.
struct Round {
  std::string_view call;
  std::vector<std::string> contributions;  ///< by rank
  int arrived = 0;
  std::shared_ptr<struct Group> duplicate;
  std::shared_ptr<struct Group> part;  ///< of first_ranks, made by the first rank to ask for it
};

/// What the ranks' transports of one communicator share; a duplicate() or a part of the ranks has its own.
struct Group {
  explicit Group(int world_size) : next_round(static_cast<std::size_t>(world_size), 0) {}

  /// Its ranks are the first ones of the world.
  int world_size() const { return static_cast<int>(next_round.size()); }

  /// Messages that one side has started: (from, to) -> in start order, all of the same side.
  std::map<std::pair<int, int>, std::deque<std::shared_ptr<Message>>> unmatched;
  std::map<std::uint64_t, std::shared_ptr<Round>> open_rounds;
  std::vector<std::uint64_t> next_round;  ///< by rank
};

/// Guards all of the above with one lock, held to note things down and never while bytes are copied.
/// @throws Error(kFailure, "rank N failed") from every function but fail() and abandon(), once rank N has failed.
class World {
 public:
  /// Ends every rank's calls. The first failure counts.
  void fail(int rank);
  /// The rank that failed first; -1: none.
  int failed_rank() const;

  /// Starts both sides of a transfer of `rank`. A side without bytes makes no message.
  Messages post(Group& group, int rank, const Transfer& transfer);

  /// Copies a slice of one of the messages, if any has one left to copy; false if not.
  bool copy_slice(const Messages& messages);
  bool all_done(const Messages& messages) const;
  /// Blocks until all are done (true) or one has a slice to copy (false). After a failure it throws, once no thread
  /// copies any of them: then the buffers are the caller's again.
  bool await_progress(const Messages& messages);
  /// Where not all are done, `rank` has failed; blocks no longer than a slice takes. Does not throw.
  void abandon(const Messages& messages, int rank);

  /// Joins the calling rank's next collective call.
  std::shared_ptr<Round> arrive(Group& group, int rank, std::string_view call, std::string contribution);
  /// Blocks until every rank has arrived; the round does not change any more then.
  void await(const Round& round);
  /// The group that a round of first_ranks makes, the same for every rank that asks.
  std::shared_ptr<Group> first_ranks(Round& round, int count);

 private:
  bool has_failed() const { return failed_rank_ >= 0; }
  void fail_locked(int rank);
  void throw_if_failed() const;
  void await_copies(std::unique_lock<std::mutex>& lock, const Messages& messages);
  std::shared_ptr<Message> post_side(Group& group, int from_rank, int to_rank, const Message& side);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int failed_rank_ = -1;
};

}  // namespace ringscan::local
