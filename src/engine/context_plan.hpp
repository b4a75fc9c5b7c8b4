#pragma once
// What a context adds to a plan.

#include <cstdint>

#include "engine/run_plan.hpp"

namespace ringscan {

/// What each rank reads of the context: keys and values as far back as the first token sees, and on each of a search's
/// journeys all keys. A window's journey for the kept mass takes the values along, for their norms.
/// `first_delta` is the farthest the first token sees, `key_journeys` the journeys of keys that come before the last.
void measure_context(PassPlan& pass, const LayerShape& layer, std::int64_t kv_heads, std::int64_t first_delta,
                     std::int64_t key_journeys);

/// Chooses the blocks of the context as large as the memory that is left has room for (at least a key block, though it
/// had none), and counts them.
void plan_context(RunPlan& plan);

}  // namespace ringscan
