#pragma once
// The search for the k-th largest score of each row, between the rounds of counting.

#include <span>

#include "kernels/cpu/lane_blocks.hpp"

namespace ringscan::cpu {

/// Rows that keep all keys they see are exact; the others may find their threshold anywhere.
void begin_search(TopkBlock& block, const TokenRun& queries, std::span<const std::int64_t> keys_kept);

/// Guesses where a tile's thresholds lie from the ordered scores [keys][kQueryTile] of some keys. `first_query`: of the
/// tile. No result depends on the guess, only the number of rounds.
void guess_ranges(SearchRows& rows, std::int64_t first_query, std::span<const std::int32_t> ordered_scores);

/// Ends a round: each row's range becomes the bin that holds its threshold. True where all rows are exact; then the
/// bins are given back.
bool narrow_search(TopkBlock& block);

}  // namespace ringscan::cpu
