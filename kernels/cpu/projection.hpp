#pragma once

#include "kernels/ssm_kernels.hpp"

namespace ringscan::cpu {

/// By oneDNN's sgemm on the calling thread. Rows are taken in groups of kProjectRows, the last one filled up, so that
/// a row's bits do not depend on which rows it comes with. @throws Error(kFailure).
void project(const ProjectTask& task);

/// A multiple of the rows that each of oneDNN's kernels takes at once (6 with AVX and AVX2, 8 and 24 with AVX-512):
/// those at a group's end would be summed in another order (seen with 256 and AVX2).
inline constexpr std::int64_t kProjectRows = 240;

}  // namespace ringscan::cpu
