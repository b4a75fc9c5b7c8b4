#include "core/kept_blocks.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <iterator>

namespace ringscan {

std::size_t KeptBlocks::capacity_of(std::size_t bytes) {
  const std::size_t step = std::max<std::size_t>(1, std::bit_floor(bytes) / 8);
  if (bytes > SIZE_MAX - step) return bytes;
  return (bytes + step - 1) / step * step;
}

void* KeptBlocks::take(std::size_t bytes) {
  const std::size_t capacity = capacity_of(bytes);
  const std::lock_guard lock(mutex_);
  // The newest is the likeliest to be in a cache.
  const auto found = std::find_if(kept_.rbegin(), kept_.rend(), [&](const Block& b) { return b.capacity == capacity; });
  if (found == kept_.rend()) {
    const std::size_t used = used_bytes_ + capacity;
    drop_to(std::max(most_used_bytes_, used) - used);
    return nullptr;
  }
  void* const data = found->data;
  kept_bytes_ -= capacity;
  used_bytes_ += capacity;
  kept_.erase(std::next(found).base());
  return data;
}

void KeptBlocks::add(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  used_bytes_ += capacity_of(bytes);
  most_used_bytes_ = std::max(most_used_bytes_, used_bytes_);
}

void KeptBlocks::give(void* data, std::size_t bytes) {
  const std::size_t capacity = capacity_of(bytes);
  const std::lock_guard lock(mutex_);
  used_bytes_ -= capacity;
  if (capacity > most_bytes_) {
    free_(data, capacity);
    return;
  }
  drop_to(most_bytes_ - capacity);
  kept_.push_back({data, capacity});
  kept_bytes_ += capacity;
}

void KeptBlocks::drop() {
  const std::lock_guard lock(mutex_);
  drop_to(0);
}

std::size_t KeptBlocks::kept_bytes() const {
  const std::lock_guard lock(mutex_);
  return kept_bytes_;
}

void KeptBlocks::drop_to(std::size_t kept_bytes) {
  auto block = kept_.begin();
  for (; kept_bytes_ > kept_bytes; ++block) {
    free_(block->data, block->capacity);
    kept_bytes_ -= block->capacity;
  }
  kept_.erase(kept_.begin(), block);
}

}  // namespace ringscan
