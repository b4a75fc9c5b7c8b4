#pragma once
// A parameter where kernels read it again and again without a copy a call.

#include <vector>

#include "core/buffer.hpp"

namespace ringscan {

/// The vector's own memory where kernels work on the host's, else a copy in theirs. @pre the vector outlives it.
class PlacedParameter {
 public:
  PlacedParameter(const std::vector<float>& values, MemorySpace& space) : data_(values.data()) {
    if (&space == &host_memory() || values.empty()) return;
    copy_ = Buffer(values.size() * sizeof(float), nullptr, space);
    space.copy_in(copy_.data(), values.data(), copy_.size_bytes());
    data_ = copy_.as<float>();
  }
  const float* data() const { return data_; }

 private:
  Buffer copy_;
  const float* data_;
};

}  // namespace ringscan
