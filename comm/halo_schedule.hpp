#pragma once
// The halo of a causal convolution as data: which tokens come from whom. No MPI, no buffers.

#include <cstdint>
#include <vector>

#include "core/token_run.hpp"
#include "sequence/sequence_layout.hpp"

namespace ringscan {

/// A run of global tokens and the rank at the other end.
struct HaloPart {
  int peer = -1;
  TokenRun tokens;
  friend bool operator==(const HaloPart&, const HaloPart&) = default;
};

/// The `halo_width` tokens before a rank's own, from the ranks that hold them: the previous one and, where shards are
/// shorter than the halo or empty, ranks further back. Every transfer goes to a later rank; two ranks exchange at most
/// one message.
struct HaloSchedule {
  TokenRun halo;                   ///< may begin under 0: what lies before the sequence is not sent by anyone
  std::vector<HaloPart> receives;  ///< ascending; together they are the part of `halo` from token 0 on
  std::vector<HaloPart> sends;     ///< ascending by peer
};

/// The transfers of `rank`. A rank without tokens receives nothing.
///
/// Cost a rank: halo_width tokens received; at most halo_width messages each way, one where shards are as long as the
/// halo.
/// @pre layout is contiguous; 0 <= rank < layout.world_size(); halo_width >= 0.
HaloSchedule make_halo_schedule(const SequenceLayout& layout, int rank, std::int64_t halo_width);

}  // namespace ringscan
