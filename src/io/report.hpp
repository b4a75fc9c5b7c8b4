#pragma once

#include <string>

#include "core/rank_group.hpp"

namespace ringscan {

/// Collective. Before what the file will tell about is computed: that rank 0 can write it. Nothing where `path` is
/// empty.
/// @throws Error(kBadInput) where it cannot.
void check_report_path(RankGroup& group, const std::string& path);

/// Collective. Rank 0 writes `json_text` to `path`, whole or not at all; a file of that name is replaced.
/// @throws Error(kFailure) where it cannot.
void write_json_file(RankGroup& group, const std::string& path, const std::string& json_text);

}  // namespace ringscan
