#pragma once

#include <cstdint>
#include <vector>

namespace ringscan {

/// Rows of a sequence to check, ascending: its first and last ones, those at the middle and at the edge of the first
/// tile; then, up to `count` in all, rows drawn at random, half of them at the edges of tiles of 64.
/// The same arguments give the same rows on every machine.
std::vector<std::int64_t> sample_rows(std::int64_t seq_len, std::int64_t count, std::uint64_t seed);

}  // namespace ringscan
