#include "core/buffer.hpp"

#include <sys/mman.h>

#include <cstring>
#include <new>
#include <string>

#include "core/error.hpp"

namespace ringscan {

namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kHugeFrom = 4 * kHugePage;

std::size_t alignment_of(std::size_t bytes) {
  return bytes >= kHugeFrom ? kHugePage : Buffer::kAlignment;
}

/// Shards and accumulators are written once right after they were allocated, and by pages of 4 KiB the faults took
/// longer than the rounding of rows that wrote them. Advice alone: a system without such pages works as before.
void advise_huge_pages(void* data, std::size_t bytes) {
  if (bytes >= kHugeFrom) ::madvise(data, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
}

}  // namespace

void MemoryLedger::add(std::size_t bytes) {
  const std::size_t now = current_.fetch_add(bytes) + bytes;
  std::size_t peak = peak_.load();
  while (now > peak && !peak_.compare_exchange_weak(peak, now)) {
  }
}

Buffer::Buffer(std::size_t bytes, MemoryLedger* ledger) : bytes_(bytes), ledger_(ledger) {
  if (bytes == 0) return;
  data_ = ::operator new (bytes, std::align_val_t{alignment_of(bytes)}, std::nothrow);
  if (data_ == nullptr) throw failure("out of memory: could not allocate " + std::to_string(bytes) + " bytes");
  advise_huge_pages(data_, bytes);
  if (ledger_ != nullptr) ledger_->add(bytes_);
}

void Buffer::release() {
  if (data_ == nullptr) return;
  ::operator delete (data_, std::align_val_t{alignment_of(bytes_)});
  if (ledger_ != nullptr) ledger_->remove(bytes_);
  data_ = nullptr;
}

void Buffer::fill_zero() {
  if (bytes_ > 0) std::memset(data_, 0, bytes_);
}

}  // namespace ringscan
