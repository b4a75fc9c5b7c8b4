#pragma once
// A GPU's memory, a stream to work on, and the way between it and the host.

#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <cstddef>

#include "core/memory_space.hpp"
#include "kernels/kernels.hpp"

namespace ringscan::cuda {

/// Owns a stream of the device it was made on.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  /// Blocks. @throws Error(kFailure) where work on the stream has failed.
  void wait() const;
  /// Likewise, and moves the heartbeat on meanwhile.
  void wait(Heartbeat& heartbeat) const;

 private:
  cudaStream_t stream_ = nullptr;
};

/// Bytes in use of a device by all its spaces, and the most of them.
class DeviceUsage {
 public:
  void add(std::size_t bytes);
  void remove(std::size_t bytes) { current_ -= bytes; }
  std::size_t current_bytes() const { return current_; }
  std::size_t peak_bytes() const { return peak_; }

 private:
  std::atomic<std::size_t> current_{0};
  std::atomic<std::size_t> peak_{0};
};

/// Allocated and released in the stream's order, so that released blocks are used again without waiting. Copies go
/// through two pinned buffers, one filled while the other is on its way; copies in are complete for this stream alone
/// unless `is_shared`. One thread at a time, of any.
class DeviceMemory final : public MemorySpace {
 public:
  /// Of the calling thread's current device. Stream and usage must outlive it.
  DeviceMemory(const Stream& stream, DeviceUsage& usage, bool is_shared);
  ~DeviceMemory() override;

  std::string_view name() const override { return "device"; }
  bool is_host() const override { return false; }
  void* allocate(std::size_t bytes) override;
  void release(void* data, std::size_t bytes) noexcept override;
  void copy_in(void* to, const void* from_host, std::size_t bytes) override;
  void copy_out(void* to_host, const void* from, std::size_t bytes) override;
  void fill_zero(void* data, std::size_t bytes) override;
  void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t row_bytes,
                 std::size_t rows) override;
  bool holds(const void* data) const override;
  void* work_queue() const override { return stream_; }
  std::size_t free_bytes() const override;
  std::size_t peak_bytes() const override { return usage_.peak_bytes(); }

 private:
  struct Staging {
    std::byte* data = nullptr;
    cudaEvent_t done = nullptr;
  };

  cudaStream_t stream_;
  cudaMemPool_t pool_ = nullptr;
  std::array<Staging, 2> staging_;
  DeviceUsage& usage_;
  int device_ = 0;
  bool is_shared_;
};

}  // namespace ringscan::cuda
