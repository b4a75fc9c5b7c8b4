#pragma once
// One head group's way round the ring, step by step as ring_pass.cpp walks it: the exchange starts, the rank computes
// meanwhile, then waits.

#include <cstdint>

#include "comm/ring_schedule.hpp"
#include "engine/simulated_ranks.hpp"
#include "engine/stick_reach.hpp"
#include "mechanism/mechanism.hpp"

namespace ringscan {

struct SimulatedRing {
  const SequenceLayout* layout = nullptr;
  Band band;
  Reach reach;               ///< windows that grow; empty: the band alone
  double heads = 1.0;        ///< query heads, times the batch
  double token_bytes = 0.0;  ///< that travel for each token, times the batch
  KernelCost cost;
  double pair_share = 1.0;             ///< of the cost's pair seconds (top-k: of one journey)
  double pack_bytes_per_second = 0.0;  ///< of keys and values on their way out
  std::int64_t piece_keys = 8192;      ///< an attend() meets at most these
  std::int64_t key_block = 512;        ///< the job's
  const ReachModel* sticks = nullptr;  ///< early exit; null: every visible tile is computed. @pre contiguous
  bool finishes = true;                ///< rows are rounded and written behind it
};

/// Moves the ranks' clocks on. Time O(world_size x steps), memory O(world_size).
void simulate_ring(const SimulatedRing& ring, SimulatedRanks& ranks);

/// Windows that grow with the row; empty for mechanisms without them.
Reach reach_of(const Mechanism& mechanism, std::int64_t seq_len);

/// The work of a part as the kernels are given it: calls, query rows that meet keys in each, and pairs of one head.
KernelPoint work_of(const Band& band, const Reach& reach, const TokenRun& queries, const TokenRun& keys,
                    std::int64_t piece_keys);

}  // namespace ringscan
