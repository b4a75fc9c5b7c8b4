#pragma once
// A parameter where kernels read it again and again without a copy a call.

#include <span>
#include <vector>

#include "core/buffer.hpp"

namespace ringscan {

/// The vector's own memory where kernels work on the host's, else a copy in theirs. @pre the vector outlives it.
class PlacedParameter {
 public:
  PlacedParameter(const std::vector<float>& values, MemorySpace& space) : data_(values.data()), size_(values.size()) {
    if (values.empty()) data_ = nullptr;
    if (&space == &host_memory() || values.empty()) return;
    copy_ = Buffer(values.size() * sizeof(float), nullptr, space);
    space.copy_in(copy_.data(), values.data(), copy_.size_bytes());
    data_ = copy_.as<float>();
  }
  /// Null where the vector is empty.
  const float* data() const { return data_; }
  std::span<const float> span() const { return {data_, size_}; }

 private:
  Buffer copy_;
  const float* data_;
  std::size_t size_;
};

}  // namespace ringscan
