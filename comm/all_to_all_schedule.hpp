#pragma once
// An all-to-all from [my tokens, all channels] to [all tokens, my channels] and back, as data: which tokens and
// channels go to whom. No MPI, no buffers.

#include <cstdint>
#include <vector>

#include "core/token_run.hpp"
#include "sequence/sequence_layout.hpp"

namespace ringscan {

/// A half-open run [begin, end) of channels.
struct ChannelRun {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  constexpr std::int64_t size() const { return end - begin; }
  constexpr bool empty() const { return end <= begin; }
  friend constexpr bool operator==(const ChannelRun&, const ChannelRun&) = default;
};

/// On the way there a rank sends its own tokens of `send_channels` and receives `recv_tokens` of its own channels; on
/// the way back it sends to `recv_from` what it received, and receives from `send_to` what it sent. Step 0 is the
/// rank's own part, where it has one: a copy.
struct AllToAllStep {
  int send_to = -1;          ///< -1: nothing is sent
  ChannelRun send_channels;  ///< those of rank send_to
  int recv_from = -1;        ///< -1: nothing is received
  TokenRun recv_tokens;      ///< those of rank recv_from
};

struct AllToAllSchedule {
  TokenRun tokens;      ///< the rank's own
  ChannelRun channels;  ///< the rank's own
  std::vector<AllToAllStep> steps;
};

/// The run of `channels` that `rank` has: lengths differ by at most one, and ranks past the number of channels have
/// none.
ChannelRun channels_of(const ChannelRun& channels, int rank, int world_size);

/// The transfers of `rank` for one block of channels. At step i a rank sends to the i-th rank behind it and receives
/// from the i-th before it (cyclically), so that no rank is sent to twice at once; steps without a transfer are left
/// out.
///
/// Cost a rank, each way: at most world_size - 1 messages; (world_size - 1) / world_size of its shard of the block.
/// @pre layout is contiguous; 0 <= rank < layout.world_size().
AllToAllSchedule make_all_to_all_schedule(const SequenceLayout& layout, const ChannelRun& channels, int rank);

}  // namespace ringscan
