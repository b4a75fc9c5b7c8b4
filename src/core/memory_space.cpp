#include "core/memory_space.hpp"

#include <sys/mman.h>

#include <cstring>
#include <limits>
#include <new>
#include <string>

#include "core/buffer.hpp"
#include "core/error.hpp"
#include "core/kept_blocks.hpp"

namespace ringscan {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::align_val_t alignment_of(std::size_t bytes) {
  return std::align_val_t{bytes >= kHugePage ? kHugePage : Buffer::kAlignment};
}

/// Shards and accumulators are written once right after they were allocated, and by pages of 4 KiB the faults took
/// longer than the rounding of rows that wrote them. Shards of many ranks are short: with pages of 4 KiB a linear head
/// over one of 6 MiB took a seventh longer than over one of 12, for its rows of one head lie apart. Advice alone: a
/// system without such pages works as before.
void advise_huge_pages(void* data, std::size_t bytes) {
  if (bytes >= kHugePage) ::madvise(data, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
}

void* allocate_block(std::size_t bytes) {
  void* const data = ::operator new(bytes, alignment_of(bytes), std::nothrow);
  if (data != nullptr) advise_huge_pages(data, bytes);
  return data;
}

void free_block(void* data, std::size_t bytes) {
  ::operator delete(data, alignment_of(bytes));
}

#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t kMostKeptBytes = 0;  // who uses a block that was given up is to be found
#else
constexpr std::size_t kMostKeptBytes = std::size_t{1} << 30;
#endif

/// Never destroyed: buffers may outlive any other object.
KeptBlocks& kept_blocks() {
  static KeptBlocks& blocks = *new KeptBlocks(kMostKeptBytes, free_block);
  return blocks;
}

bool is_worth_keeping(std::size_t bytes) {
  return bytes >= kHugePage && kMostKeptBytes > 0;
}

}  // namespace

void* HostMemory::allocate(std::size_t bytes) {
  const bool is_large = is_worth_keeping(bytes);
  void* data = is_large ? kept_blocks().take(bytes) : nullptr;
  if (data != nullptr) return data;
  const std::size_t capacity = is_large ? KeptBlocks::capacity_of(bytes) : bytes;
  data = allocate_block(capacity);
  if (data == nullptr) {
    kept_blocks().drop();
    data = allocate_block(capacity);
  }
  if (data == nullptr) throw failure("out of memory: could not allocate " + std::to_string(bytes) + " bytes");
  if (is_large) kept_blocks().add(bytes);
  return data;
}

void HostMemory::release(void* data, std::size_t bytes) noexcept {
  if (is_worth_keeping(bytes)) {
    kept_blocks().give(data, bytes);
  } else {
    free_block(data, bytes);
  }
}

void HostMemory::copy_out(void* to_host, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to_host, from, bytes);
}

void HostMemory::fill_zero(void* data, std::size_t bytes) {
  if (bytes > 0) std::memset(data, 0, bytes);
}

void HostMemory::copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                           std::size_t row_bytes, std::size_t rows) {
  auto* target = static_cast<std::byte*>(to);
  const auto* source = static_cast<const std::byte*>(from);
  for (std::size_t row = 0; row < rows; ++row) copy_out(target + row * to_pitch, source + row * from_pitch, row_bytes);
}

std::size_t HostMemory::free_bytes() const {
  return std::numeric_limits<std::size_t>::max();
}

MemorySpace& host_memory() {
  static HostMemory memory;
  return memory;
}

}  // namespace ringscan
