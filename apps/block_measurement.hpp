#pragma once
// What ssm, mamba and chela cost a rank, alone and with other ranks before and behind it.

#include <string>

#include "apps/options.hpp"
#include "comm/transport.hpp"
#include "engine/cost_profile.hpp"
#include "kernels/kernels.hpp"

namespace ringscan {

/// "ssm", "mamba", "chela".
bool is_block_name(const std::string& mechanism);

/// Collective over `part`, whose ranks do the same for themselves at once; times are medians of the slowest. Synthetic
/// inputs of options' heads x head_dim channels and sizes. `carries`: a run's transport carries the kernels' memory.
/// @throws Error.
BlockCost measure_block(Transport& part, Kernels& kernels, const BenchOptions& options, const std::string& mechanism,
                        std::int64_t head_dim, std::size_t memory_bytes, bool carries);

}  // namespace ringscan
