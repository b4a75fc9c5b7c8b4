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

void ManagedMemory::copy_in(void* to, const void* from_host, std::size_t bytes) {
  host_memory().copy_in(to, from_host, bytes);
}

void ManagedMemory::copy_out(void* to_host, const void* from, std::size_t bytes) {
  host_memory().copy_out(to_host, from, bytes);
}

void ManagedMemory::fill_zero(void* data, std::size_t bytes) {
  host_memory().fill_zero(data, bytes);
}

void ManagedMemory::copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t row_bytes, std::size_t rows) {
  host_memory().copy_rows(to, to_pitch, from, from_pitch, row_bytes, rows);
}

std::size_t ManagedMemory::free_bytes() const {
  return host_memory().free_bytes();
}

}  // namespace ringscan::cuda
