#pragma once
// The options of `run`: their names, what they mean, and which combinations are possible.

#include <span>
#include <string>
#include <vector>

#include "engine/run_config.hpp"
#include "engine/settings.hpp"

namespace ringscan {

/// All of them, in the order help shows them.
std::span<const OptionInfo> run_option_infos();

/// @throws Error(kBadInput): an unknown name (with the nearest known one), a value of another form, a combination that
/// cannot be; names the option, what was found and what is wanted.
RunConfig make_run_config(const std::vector<Setting>& settings);

}  // namespace ringscan
