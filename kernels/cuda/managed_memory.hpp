#pragma once
// Memory that the host and a GPU share: pages go to where they are used.

#include <cuda_runtime_api.h>

#include "core/memory_space.hpp"

namespace ringscan::cuda {

/// For what host code and kernels take turns at. The host may touch it whenever no work on the GPU uses it.
class ManagedMemory final : public MemorySpace {
 public:
  std::string_view name() const override { return "managed"; }
  bool is_host() const override { return true; }
  void* allocate(std::size_t bytes) override;
  void release(void* data, std::size_t bytes) noexcept override;
  void copy_in(void* to, const void* from_host, std::size_t bytes) override;
  void copy_out(void* to_host, const void* from, std::size_t bytes) override;
  void fill_zero(void* data, std::size_t bytes) override;
  void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t row_bytes,
                 std::size_t rows) override;
  std::size_t free_bytes() const override;
};

}  // namespace ringscan::cuda
