#pragma once
// Memory with an owner, counted in its rank's ledger.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <utility>

#include "core/memory_space.hpp"

namespace ringscan {

/// Bytes that one rank holds in Buffers, now and at most. A rank's threads (compute, input/output) share one.
class MemoryLedger {
 public:
  void add(std::size_t bytes);
  void remove(std::size_t bytes) { current_.fetch_sub(bytes); }
  std::size_t current_bytes() const { return current_.load(); }
  std::size_t peak_bytes() const { return peak_.load(); }

 private:
  std::atomic<std::size_t> current_{0};
  std::atomic<std::size_t> peak_{0};
};

/// A rank's ledger counts the host's memory alone: devices count their own.
inline MemoryLedger* ledger_for(const MemorySpace& space, MemoryLedger* ledger) {
  return space.is_host() ? ledger : nullptr;
}

/// Owns uninitialised memory aligned to 128 bytes, of the host or of a device. Movable, not copyable; an empty one
/// holds nothing.
class Buffer {
 public:
  static constexpr std::size_t kAlignment = 128;

  Buffer() = default;
  /// @throws Error(kFailure) where the system has no memory left. The ledger, where given, and the space must outlive
  /// the buffer.
  explicit Buffer(std::size_t bytes, MemoryLedger* ledger = nullptr, MemorySpace& space = host_memory());
  ~Buffer() { release(); }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer moved(std::move(other));
    swap(moved);
    return *this;
  }

  void* data() { return data_; }
  const void* data() const { return data_; }
  std::size_t size_bytes() const { return bytes_; }
  std::span<std::byte> bytes() { return {static_cast<std::byte*>(data_), bytes_}; }
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), bytes_}; }
  template <typename T>
  T* as() {
    return static_cast<T*>(data_);
  }
  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data_);
  }
  void fill_zero();

 private:
  void release();
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(ledger_, other.ledger_);
    std::swap(space_, other.space_);
  }

  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  MemoryLedger* ledger_ = nullptr;
  MemorySpace* space_ = nullptr;
};

}  // namespace ringscan
