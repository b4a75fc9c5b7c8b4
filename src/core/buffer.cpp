#include "core/buffer.hpp"

namespace ringscan {

void MemoryLedger::add(std::size_t bytes) {
  const std::size_t now = current_.fetch_add(bytes) + bytes;
  std::size_t peak = peak_.load();
  while (now > peak && !peak_.compare_exchange_weak(peak, now)) {
  }
}

Buffer::Buffer(std::size_t bytes, MemoryLedger* ledger, MemorySpace& space)
    : bytes_(bytes), ledger_(ledger), space_(&space) {
  if (bytes == 0) return;
  data_ = space.allocate(bytes);
  if (ledger_ != nullptr) ledger_->add(bytes_);
}

void Buffer::release() {
  if (data_ == nullptr) return;
  space_->release(data_, bytes_);
  if (ledger_ != nullptr) ledger_->remove(bytes_);
  data_ = nullptr;
}

void Buffer::fill_zero() {
  if (bytes_ > 0) space_->fill_zero(data_, bytes_);
}

}  // namespace ringscan
