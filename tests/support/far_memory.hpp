#pragma once
// A device's memory, without a device.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <functional>
#include <map>
#include <mutex>
#include <string_view>

#include "core/error.hpp"
#include "core/memory_space.hpp"

namespace ringscan::test {

/// Counts what it gives out, poisons it, and knows it again.
class FarMemory final : public MemorySpace {
 public:
  explicit FarMemory(bool has_queue = false) : has_queue_(has_queue) {}

  std::string_view name() const override { return "far"; }
  bool is_host() const override { return false; }
  void* allocate(std::size_t bytes) override {
    void* data = host_memory().allocate(bytes);
    std::fill_n(static_cast<unsigned char*>(data), bytes, static_cast<unsigned char>(0xff));  // NaN in every type
    const std::lock_guard lock(mutex_);
    blocks_[data] = bytes;
    return data;
  }
  void release(void* data, std::size_t bytes) noexcept override {
    {
      const std::lock_guard lock(mutex_);
      blocks_.erase(data);
    }
    host_memory().release(data, bytes);
  }
  void copy_in(void* to, const void* from, std::size_t bytes) override {
    require(to, bytes, true);
    copied_in_bytes_ += bytes;
    host_memory().copy_in(to, from, bytes);
  }
  void copy_out(void* to, const void* from, std::size_t bytes) override {
    require(from, bytes, true);
    copied_out_bytes_ += bytes;
    host_memory().copy_out(to, from, bytes);
  }
  void fill_zero(void* data, std::size_t bytes) override { host_memory().fill_zero(data, bytes); }
  void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t row_bytes,
                 std::size_t rows) override {
    require(to, row_bytes, true);
    require(from, row_bytes, true);
    host_memory().copy_rows(to, to_pitch, from, from_pitch, row_bytes, rows);
  }
  /// All is done when a call returns, but callers go the way of a queue where a transport carries this memory.
  void* work_queue() const override { return has_queue_ ? const_cast<FarMemory*>(this) : nullptr; }
  std::size_t free_bytes() const override { return std::size_t{1} << 40; }
  std::size_t peak_bytes() const override { return 1; }

  /// Between it and the host so far.
  std::size_t copied_in_bytes() const { return copied_in_bytes_; }
  std::size_t copied_out_bytes() const { return copied_out_bytes_; }

  bool holds(const void* data) const override { return holds(data, 1); }
  bool holds(const void* data, std::size_t bytes) const {
    const std::lock_guard lock(mutex_);
    const auto* first = static_cast<const unsigned char*>(data);
    bool found = false;
    for (const auto& [begin, size] : blocks_) {
      const auto* block = static_cast<const unsigned char*>(begin);
      found |= std::less_equal<>()(block, first) && std::less_equal<>()(first + bytes, block + size);
    }
    return found;
  }
  void require(const void* data, std::size_t bytes, bool is_here) const {
    if (bytes == 0 || data == nullptr) return;
    if (holds(data, bytes) != is_here)
      throw failure(is_here ? "a tensor is not in far memory" : "a tensor is in far memory");
  }

 private:
  bool has_queue_;
  mutable std::mutex mutex_;  // a shard's way in and out is another thread's
  std::map<const void*, std::size_t> blocks_;
  std::atomic<std::size_t> copied_in_bytes_ = 0;
  std::atomic<std::size_t> copied_out_bytes_ = 0;
};

}  // namespace ringscan::test
