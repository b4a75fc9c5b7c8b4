#pragma once
// One group of linear heads, as linear_pass.cpp goes: ranks sum their tokens up into states, a scan over the ranks
// carries these on while further heads are summed up, then comes the output.

#include "comm/scan_schedule.hpp"
#include "engine/simulated_ranks.hpp"

namespace ringscan {

struct SimulatedScan {
  const SequenceLayout* layout = nullptr;  ///< contiguous
  ScanKind kind = ScanKind::kLogarithmic;
  int slots = 1;             ///< heads of the group
  double batch = 1.0;        ///< tokens of a head, times this
  double state_bytes = 0.0;  ///< of a head, over the batch
  KernelCost cost;
};

/// Moves the ranks' clocks on. Time and memory O(world_size x slots x log(world_size)).
void simulate_scan(const SimulatedScan& scan, SimulatedRanks& ranks);

}  // namespace ringscan
