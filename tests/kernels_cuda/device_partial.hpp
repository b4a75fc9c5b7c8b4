#pragma once
// A partial in device memory for tests, poisoned until it is started.

#include "kernels/cuda/portable_attend.hpp"
#include "tests/kernels_cuda/device_tensor.hpp"

namespace ringscan::cuda::testing {

struct Partial {
  DeviceArray out, first, sum;
  DevicePartial device;
  explicit Partial(const PartialShape& shape)
      : out(bytes(shape) * static_cast<std::size_t>(std::max<std::int64_t>(1, shape.v_dim))),
        first(bytes(shape)),
        sum(bytes(shape)),
        device{shape, out.as<float>(), first.as<float>(), sum.as<float>()} {}
  static std::size_t bytes(const PartialShape& shape) {
    return 4 * static_cast<std::size_t>(shape.batch * shape.slots * shape.rows);
  }
};

}  // namespace ringscan::cuda::testing
