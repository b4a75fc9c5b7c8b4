#pragma once
// The measures of kernels/measure_kernels.hpp over all ranks: a head group's keys go round the ring once.

#include <cstdint>
#include <span>
#include <vector>

#include "comm/transport.hpp"
#include "core/tensor_view.hpp"
#include "kernels/measure_kernels.hpp"
#include "sequence/sequence_layout.hpp"

namespace ringscan {

/// A rank's share of one pass. Views are [batch, local tokens, heads, head_dim], tokens in the order of the layout.
struct MeasureTask {
  const SequenceLayout* layout = nullptr;
  double scale = 1.0;
  AnyView q;
  AnyView k;
  std::span<const HeadSlot> slots;
};

/// This rank's rows: [slots][epsilons].
struct ReachCounts {
  std::vector<std::vector<std::int64_t>> keys;  ///< the reach of each row, in no order
  std::vector<std::int64_t> never;              ///< rows whose stick never came under epsilon
};

/// Collective. Ends early once all sticks of all ranks are under all epsilons. @pre a contiguous layout.
ReachCounts run_reach_pass(const MeasureTask& task, const ReachParams& params, Transport& transport,
                           const MeasureKernels& kernels, MemoryLedger* ledger);

/// Collective; sums over this rank's rows. `lse` [batch, local tokens, heads, 1] by q_head, over all keys j <= i.
/// @pre kWindow: a contiguous layout.
KeptMass run_mass_pass(const MeasureTask& task, const MassParams& params, TensorView<const float> lse,
                       Transport& transport, const MeasureKernels& kernels, MemoryLedger* ledger);

/// Collective. For each of `lists` (equally many on all ranks) the smallest value v so that at least ceil(share *
/// count) of all ranks' values are at most v (nearest rank, exact); 0 where there are none. Sorts the lists.
std::vector<std::int64_t> select_quantiles(std::span<std::vector<std::int64_t>> lists, double share, RankGroup& group);

}  // namespace ringscan
