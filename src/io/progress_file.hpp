#pragma once
// The record beside a partial output of what of it is complete, for a later run to go on from.

#include <optional>
#include <string>

#include "core/rank_group.hpp"

namespace ringscan {

/// Collective. Of the output `target`; nothing where there is no record, or no partial output beside it.
/// @throws Error(kBadInput) where it cannot be read.
std::optional<std::string> read_progress(RankGroup& group, const std::string& target);

/// Collective. Replaces the record, whole or not at all. @throws Error(kFailure).
void write_progress(RankGroup& group, const std::string& target, const std::string& json_text);

/// One rank: takes the record away; without one it does nothing.
void remove_progress(const std::string& target);

}  // namespace ringscan
