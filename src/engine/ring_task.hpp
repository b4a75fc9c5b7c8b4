#pragma once
// From a plan's pass to what the ring is to do.

#include <span>

#include "engine/resident.hpp"
#include "engine/ring_pass.hpp"
#include "engine/run_plan.hpp"

namespace ringscan {

/// A head group's share of a pass, without a context. All that is named must outlive it. @pre the pass carries no
/// state.
RingPassTask ring_task(const RunConfig& config, const RunPlan& plan, const ShardPlan& shard, const PassPlan& pass,
                       std::span<const HeadSlot> slots, const ResidentInput& input, const ResidentOutput& output,
                       const Kernels& kernels);

}  // namespace ringscan
