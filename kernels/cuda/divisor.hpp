#pragma once
// Division by a number that the host knows ahead.

#include <cstdint>

#ifdef __CUDACC__
#define RINGSCAN_HOST_DEVICE __host__ __device__
#else
#define RINGSCAN_HOST_DEVICE
#endif

namespace ringscan::cuda {

/// Divides with a product, an addition and a shift; a division takes some hundred clocks on a GPU.
class Divisor {
 public:
  Divisor() = default;
  /// @pre 1 <= divisor < 2^31.
  explicit Divisor(std::uint32_t divisor) : divisor_(divisor) {
    while ((std::uint64_t{1} << shift_) < divisor) ++shift_;
    factor_ = static_cast<std::uint32_t>((((std::uint64_t{1} << shift_) - divisor) << 32) / divisor) + 1;
  }
  RINGSCAN_HOST_DEVICE std::uint32_t divisor() const { return divisor_; }
  /// x / divisor(). @pre x < 2^31.
  RINGSCAN_HOST_DEVICE std::uint32_t quotient(std::uint32_t x) const {
    return (static_cast<std::uint32_t>(std::uint64_t{factor_} * x >> 32) + x) >> shift_;
  }

 private:
  std::uint32_t divisor_ = 1;
  std::uint32_t factor_ = 1;
  std::uint32_t shift_ = 0;
};

}  // namespace ringscan::cuda
