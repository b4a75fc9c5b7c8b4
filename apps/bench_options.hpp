#pragma once
// The options of `bench`.

#include <vector>

#include "apps/options.hpp"
#include "engine/settings.hpp"

namespace ringscan {

const std::vector<OptionInfo>& bench_options();

/// @throws Error(kBadInput).
BenchOptions parse_bench(const std::vector<Setting>& settings);

}  // namespace ringscan
