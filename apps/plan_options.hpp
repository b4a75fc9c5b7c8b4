#pragma once
// The options of `plan`: those of `run` that decide how a job goes, and the cluster it is to go on.

#include <optional>
#include <vector>

#include "apps/options.hpp"
#include "engine/settings.hpp"

namespace ringscan {

const std::vector<OptionInfo>& plan_options();

/// @throws Error(kBadInput).
PlanOptions parse_plan(const std::vector<Setting>& settings);

}  // namespace ringscan
