#include "core/buffer.hpp"

#include <cstring>
#include <new>
#include <string>

#include "core/error.hpp"

namespace ringscan {

void MemoryLedger::add(std::size_t bytes) {
  const std::size_t now = current_.fetch_add(bytes) + bytes;
  std::size_t peak = peak_.load();
  while (now > peak && !peak_.compare_exchange_weak(peak, now)) {
  }
}

Buffer::Buffer(std::size_t bytes, MemoryLedger* ledger) : bytes_(bytes), ledger_(ledger) {
  if (bytes == 0) return;
  data_ = ::operator new (bytes, std::align_val_t{kAlignment}, std::nothrow);
  if (data_ == nullptr) throw failure("out of memory: could not allocate " + std::to_string(bytes) + " bytes");
  if (ledger_ != nullptr) ledger_->add(bytes_);
}

void Buffer::release() {
  if (data_ == nullptr) return;
  ::operator delete (data_, std::align_val_t{kAlignment});
  if (ledger_ != nullptr) ledger_->remove(bytes_);
  data_ = nullptr;
}

void Buffer::fill_zero() {
  if (bytes_ > 0) std::memset(data_, 0, bytes_);
}

}  // namespace ringscan
