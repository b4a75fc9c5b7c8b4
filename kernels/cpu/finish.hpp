#pragma once
// From accumulators in lanes to finished rows.

#include "kernels/cpu/lane_blocks.hpp"

namespace ringscan::cpu {

void finish_rows(const TileOps& ops, const FinishTask& task, const LseBlock& block);
void finish_rows(const TileOps& ops, const FinishTask& task, RemainderPolicy policy, const StickBlock& block);

}  // namespace ringscan::cpu
