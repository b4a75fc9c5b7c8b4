#pragma once
// Large blocks of memory that were given up, for who asks for as many bytes again.

#include <cstddef>
#include <mutex>
#include <vector>

namespace ringscan {

/// A pass takes and returns its buffers, and the next one takes as many: pages that the system zeroes each time cost a
/// short pass a fifth of its time. What is kept and what is in use never come to more than was once in use at a time,
/// so that a process needs no more memory for it. Thread-safe.
class KeptBlocks {
 public:
  using Free = void (*)(void* data, std::size_t capacity);

  /// Keeps at most `most_bytes`; `free` takes back what is not kept.
  KeptBlocks(std::size_t most_bytes, Free free) : most_bytes_(most_bytes), free_(free) {}
  KeptBlocks(const KeptBlocks&) = delete;
  KeptBlocks& operator=(const KeptBlocks&) = delete;

  /// The bytes to allocate for a block of `bytes`: up to an eighth more, so that blocks of about one size serve each
  /// other. @pre bytes > 0.
  static std::size_t capacity_of(std::size_t bytes);

  /// A kept block of capacity_of(bytes), from now on in use; null: the caller is to allocate one, for which there is
  /// room now, and to say so (add).
  void* take(std::size_t bytes);
  void add(std::size_t bytes);
  /// The block is no longer in use: it is kept, or goes to `free`.
  void give(void* data, std::size_t bytes);
  /// Frees all that is kept.
  void drop();

  std::size_t kept_bytes() const;

 private:
  struct Block {
    void* data = nullptr;
    std::size_t capacity = 0;
  };
  void drop_to(std::size_t kept_bytes);  // with the lock held; the oldest first

  const std::size_t most_bytes_;
  const Free free_;
  mutable std::mutex mutex_;
  std::vector<Block> kept_;  // the oldest first
  std::size_t kept_bytes_ = 0;
  std::size_t used_bytes_ = 0;
  std::size_t most_used_bytes_ = 0;
};

}  // namespace ringscan
