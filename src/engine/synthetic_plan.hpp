#pragma once
// What run() would plan for synthetic activations, without a file.

#include "engine/run_plan.hpp"
#include "engine/synthetic_activations.hpp"

namespace ringscan {

/// The inputs of a block mechanism beside q, k and v of `layer`: as many channels as its heads (all heads, where it has
/// the whole layer) have elements; B and C of ssm in the layer's KV heads, or, in a hybrid, in one group.
SyntheticSpec synthetic_block_spec(const BlockAssignment& assignment, const LayerShape& layer,
                                   const SyntheticBlockSizes& sizes);

/// As inspect_block() would find it in a file of these inputs. @throws Error(kBadInput) where chela.heads does not
/// divide the channels.
BlockShape synthetic_block_shape(const BlockAssignment& assignment, const LayerShape& layer,
                                 const SyntheticBlockSizes& sizes, const RunConfig& config);

/// One layer. @throws Error(kBadInput) as make_run_plan() and plan_block() do.
RunPlan make_synthetic_plan(const RunConfig& config, const LayerShape& layer, const SyntheticBlockSizes& sizes,
                            const PlanResources& resources, const Kernels& kernels);

}  // namespace ringscan
