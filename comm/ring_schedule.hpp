#pragma once
// The ring as data: who sends what to whom at each step, and what is computed. No MPI, no buffers.

#include <cstdint>
#include <functional>
#include <vector>

#include "mechanism/band.hpp"
#include "sequence/sequence_layout.hpp"

namespace ringscan {

/// A run of the rank's queries meets a run of the visiting keys.
struct RingPart {
  int query_chunk = 0;  ///< index into layout.chunks(rank)
  int key_chunk = 0;    ///< index into layout.chunks(step.kv_rank)
  Band band;            ///< which pairs of the two count at this step
};

/// KV moves from rank r to rank r+1, so that a rank meets its own keys first, then those of r-1, r-2, ...: nearest
/// first under the contiguous layout.
struct RingStep {
  /// Whose keys are here at this step: (rank - step) mod world_size; in the cyclic order's last step the rank's own
  /// again, from its own shard. A block that nobody needs further (or that has no token) does not arrive: then there is
  /// no part and no send_to, and the step before has recv_from == -1.
  int kv_rank = 0;
  int send_to = -1;    ///< passes them on while computing; -1: nobody needs them any more
  int recv_from = -1;  ///< what arrives meanwhile is of rank `next_kv_rank`; -1: nothing needed comes
  int next_kv_rank = -1;
  std::vector<RingPart> parts;  ///< near first for each query chunk; empty: nothing to compute, at most to forward
};

using RingSchedule = std::vector<RingStep>;

/// A window that differs by row: the largest i - j of a query, beside what the band says. query - reach(query) never
/// falls from one query to the next.
using Reach = std::function<std::int64_t(std::int64_t query)>;

/// The steps of `rank`. All ranks' schedules have the same length; transfers match pairwise; a block travels no
/// further than the last rank that has work with it (windows, causality and empty shards cut the ring short), and a
/// transfer of no tokens is left out.
///
/// Where later keys are visible (band.min_delta < 0) under the contiguous layout, keys are met in cyclic order, going
/// down from the query itself and around: a last step, with no transfer, meets the rank's own keys behind each query.
/// So every layout walks the keys of a row in one order, whatever the number of ranks.
///
/// With `reach`, a run of queries meets only the keys that its first row reaches back to; part.band remains `band`.
///
/// Cost a rank: at most world_size - 1 transfers of one shard's KV.
/// @pre 0 <= rank < layout.world_size().
RingSchedule make_ring_schedule(const SequenceLayout& layout, const Band& band, int rank, const Reach& reach = {});

/// The same steps for whoever walks those of many ranks: what they share is found once, and no schedule is stored.
/// The layout must outlive it.
class RingRoutes {
 public:
  RingRoutes(const SequenceLayout& layout, const Band& band, Reach reach = {});

  int steps() const { return last_hop_ + 1 + (is_cyclic_ ? 1 : 0); }
  /// make_ring_schedule(..., rank, ...)[index]; `step` is filled anew, its memory used again.
  void fill(int rank, int index, RingStep& step) const;
  /// Tokens whose keys are sent on, over all ranks and steps.
  std::int64_t moved_tokens() const;

 private:
  void fill_parts(const Band& band, int rank, RingStep& step) const;

  const SequenceLayout* layout_;
  Band band_;
  Reach reach_;
  bool is_cyclic_;
  std::vector<int> hops_;  // of each rank's block
  int last_hop_;
};

}  // namespace ringscan
