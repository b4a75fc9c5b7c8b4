#pragma once
// Launches a persistent kernel: a block a multiprocessor, or an item where there are fewer.

#include <algorithm>

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/multiprocessors.hpp"

namespace ringscan::cuda {

/// `Shared`: what a block has in shared memory, aligned to 1024 bytes there by the kernel.
template <typename Shared, int kThreads, typename Params, typename Maps>
void launch_persistent(void (*kernel)(Params, Maps), unsigned num_items, const Params& params, const Maps& maps,
                       cudaStream_t stream) {
  constexpr int kSharedBytes = sizeof(Shared) + 1024;  // room to align
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  const unsigned blocks = std::min(count_multiprocessors(), num_items);
  kernel<<<blocks, kThreads, kSharedBytes, stream>>>(params, maps);
  check(cudaGetLastError());
}

}  // namespace ringscan::cuda
