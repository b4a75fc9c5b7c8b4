#pragma once
// States that a scan over the ranks carries on, as linear_pass.cpp and ssm_pass.cpp go: ranks sum their tokens up into
// a state, the scan carries it on while further states are summed up, then comes what had to wait for it.

#include <vector>

#include "comm/scan_schedule.hpp"
#include "engine/simulated_ranks.hpp"

namespace ringscan {

struct SimulatedScan {
  const SequenceLayout* layout = nullptr;  ///< contiguous
  ScanKind kind = ScanKind::kLogarithmic;
  int slots = 1;             ///< states that go one after the other
  double state_bytes = 0.0;  ///< of a slot
  /// Seconds by rank, of a slot. Serial: there is no summing up.
  std::vector<double> state_seconds;   ///< before its state goes on; empty: none
  std::vector<double> output_seconds;  ///< once the state is there; empty: none
};

/// Moves the ranks' clocks on. Time and memory O(world_size x slots x log(world_size)).
void simulate_scan(const SimulatedScan& scan, SimulatedRanks& ranks);

/// One group of linear heads.
struct SimulatedLinear {
  const SequenceLayout* layout = nullptr;  ///< contiguous
  ScanKind kind = ScanKind::kLogarithmic;
  int heads = 1;
  double batch = 1.0;            ///< tokens of a head, times this
  double state_bytes = 0.0;      ///< of a head, over the batch
  int heads_a_state = 1;         ///< LinearKernels::slots_a_state()
  bool keeps_summaries = false;  ///< LinearKernels::keeps_summaries()
  KernelCost cost;               ///< rows: tokens of a head
};

/// Likewise, and rows are rounded and written behind it.
void simulate_linear(const SimulatedLinear& linear, SimulatedRanks& ranks);

}  // namespace ringscan
