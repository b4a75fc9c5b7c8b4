#pragma once

#include "kernels/ssm_kernels.hpp"

namespace ringscan::cpu {

/// By oneDNN's sgemm on the calling thread. Rows are taken in groups of kProjectRows, the last one filled up, so that
/// a row's bits do not depend on which rows it comes with. @throws Error(kFailure).
void project(const ProjectTask& task);

inline constexpr std::int64_t kProjectRows = 256;

}  // namespace ringscan::cpu
