#pragma once

#include "kernels/cuda/check.hpp"

namespace ringscan::cuda {

/// Of the calling thread's current device.
inline unsigned count_multiprocessors() {
  int device = 0;
  int count = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return static_cast<unsigned>(count);
}

}  // namespace ringscan::cuda
