#include "kernels/cuda/managed_memory.hpp"

#include "kernels/cuda/check.hpp"

namespace ringscan::cuda {

void* ManagedMemory::allocate(std::size_t bytes) {
  void* data = nullptr;
  check(cudaMallocManaged(&data, bytes));
  return data;
}

void ManagedMemory::release(void* data, std::size_t) noexcept {
  cudaFree(data);
}

}  // namespace ringscan::cuda
