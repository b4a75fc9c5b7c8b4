#pragma once
// Checked CUDA runtime calls: evaluated once, in release builds too.

#include <cuda_runtime_api.h>

#include <source_location>
#include <string>

#include "core/error.hpp"

namespace ringscan::cuda {

inline void check(cudaError_t status, const std::source_location& where = std::source_location::current()) {
  if (status == cudaSuccess) return;
  throw failure(std::string("CUDA: ") + cudaGetErrorString(status) + " at " + where.file_name() + ":" +
                std::to_string(where.line()));
}

}  // namespace ringscan::cuda
