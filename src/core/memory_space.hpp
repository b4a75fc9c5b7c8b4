#pragma once
// Where memory lies: the host's, or a device's. Copies between a space and the host are complete when they return.

#include <cstddef>
#include <string_view>

namespace ringscan {

class MemorySpace {
 public:
  virtual ~MemorySpace() = default;
  virtual std::string_view name() const = 0;
  /// True where the host may read and write through the pointers.
  virtual bool is_host() const = 0;

  /// @throws Error(kFailure) where there is no memory left. @pre bytes > 0.
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void release(void* data, std::size_t bytes) noexcept = 0;

  virtual void copy_in(void* to, const void* from_host, std::size_t bytes) = 0;
  virtual void copy_out(void* to_host, const void* from, std::size_t bytes) = 0;
  virtual void fill_zero(void* data, std::size_t bytes) = 0;
  /// Within the space: `rows` pieces of `row_bytes` each, whose begins are `to_pitch` and `from_pitch` bytes apart.
  virtual void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                         std::size_t row_bytes, std::size_t rows) = 0;

  /// Whether `data` lies here; asked of spaces that are not the host's.
  virtual bool holds(const void*) const { return is_host(); }

  /// Where work on the space's memory stands in line, this space's fill_zero() and copy_rows() with it (on a GPU a
  /// stream): what a transport that carries this memory has to follow. Null: all is done when a call returns.
  virtual void* work_queue() const { return nullptr; }

  /// What may still be allocated; of the host this is not asked.
  virtual std::size_t free_bytes() const = 0;
  /// The most that was allocated at a time, where the space counts it.
  virtual std::size_t peak_bytes() const { return 0; }
};

/// Memory that the host reads and writes itself: aligned to 128 bytes; large blocks ask for huge pages. Spaces that a
/// device shares allocate otherwise.
class HostMemory : public MemorySpace {
 public:
  std::string_view name() const override { return "host"; }
  bool is_host() const final { return true; }
  void* allocate(std::size_t bytes) override;
  void release(void* data, std::size_t bytes) noexcept override;
  void copy_in(void* to, const void* from_host, std::size_t bytes) final { copy_out(to, from_host, bytes); }
  void copy_out(void* to_host, const void* from, std::size_t bytes) final;
  void fill_zero(void* data, std::size_t bytes) final;
  void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t row_bytes,
                 std::size_t rows) final;
  std::size_t free_bytes() const final;
};

/// The host's own.
MemorySpace& host_memory();

}  // namespace ringscan
