#pragma once
// Memory that the host and a GPU share: pages go to where they are used.

#include "core/memory_space.hpp"

namespace ringscan::cuda {

/// For what host code and kernels take turns at. The host may touch it whenever no work on the GPU uses it.
class ManagedMemory final : public HostMemory {
 public:
  std::string_view name() const override { return "managed"; }
  void* allocate(std::size_t bytes) override;
  void release(void* data, std::size_t bytes) noexcept override;
};

}  // namespace ringscan::cuda
