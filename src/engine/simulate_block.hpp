#pragma once
// One block mechanism, as its pass goes: inputs of the convolutions come from the ranks before (or, for long kernels,
// all ranks exchange channels for tokens), each rank computes what needs no state, a scan over the ranks brings the
// state, and the rest is computed.

#include "engine/block_plan.hpp"
#include "engine/simulated_ranks.hpp"

namespace ringscan {

struct SimulatedBlock {
  const BlockPlan* plan = nullptr;
  BlockCost cost;
  int heads_a_state = 1;   ///< chela: LinearKernels::slots_a_state()
  bool by_device = false;  ///< chela: the transport carries states where the device has them
  /// States go from rank to rank, one after the other. Mamba: what needs no state is taken to wait for it as well.
  bool reproducible = false;
};

/// Moves the ranks' clocks on. Time O(world_size x messages of a rank).
void simulate_block(const SimulatedBlock& block, SimulatedRanks& ranks);

/// The `halo_width` tokens before each rank's own arrive, as carry_halo() brings them: a rank goes on once all it sends
/// and receives is through. `token_bytes`: over the batch.
void simulate_halo(const SequenceLayout& layout, std::int64_t halo_width, double token_bytes, SimulatedRanks& ranks);

/// To whole sequences of single channels and back, `exchanges` times one after the other, as ChannelCarrier does:
/// nobody is through before the last rank begins; a rank's messages follow each other. `token_bytes`: of all channels.
void simulate_all_to_all(const SequenceLayout& layout, double exchanges, double token_bytes, SimulatedRanks& ranks);

}  // namespace ringscan
