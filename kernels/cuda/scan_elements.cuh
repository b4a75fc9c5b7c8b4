#pragma once
// The selective scan's elements: how they are read, by what is known of their types, and the functions of one.

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/portable_tile.cuh"
#include "kernels/cuda/scan_params.hpp"
#include "kernels/cuda/score_math.cuh"

namespace ringscan::cuda {

/// What is known of the inputs' types when the kernel is compiled: all of one 16-bit type, or nothing.
enum class ScanElements { kAny, kBf16, kFp16 };

/// kPrecise: to float32's last places; else by the special-function unit, and powers are of 2.
template <bool kPrecise>
struct ScanMath {
  /// e^x, or 2^x.
  __device__ static float power(float x) {
    return kPrecise ? expf(x) : exp2_approx(x);
  }
  /// Without a branch: a few multiplications cost less.
  __device__ static float softplus(float x) {
    if constexpr (kPrecise) return x > 20.0f ? x : log1pf(expf(x));
    const float power = exp2_approx(x * kLog2E);
    const float series = power * fmaf(power, fmaf(power, 1.0f / 3.0f, -0.5f), 1.0f);
    const float all = log2_approx(1.0f + power) * kLn2;
    const float below = power < 0x1p-5f ? series : all;
    return x > 20.0f ? x : below;
  }
  __device__ static float silu(float x) {
    return kPrecise ? x / (1.0f + expf(-x)) : x * reciprocal_approx(1.0f + exp2_approx(-x * kLog2E));
  }
};

/// What a thread reads of one input: an element of each token, or of each but some.
template <bool kPrecise, ScanElements kElementsAre>
struct ScanSource {
  using Raw = std::conditional_t<kPrecise, std::uint32_t, std::uint16_t>;  ///< an element as it was read

  const std::byte* first_token;
  int row_bytes;
  bool wide;  ///< float32

  ScanSource() = default;
  __device__ ScanSource(const RowsIn& rows, std::int64_t batch, std::int64_t at)
      : row_bytes(static_cast<int>(rows.strides.row * bytes_of(rows))), wide(rows.type == ElementType::kFloat32) {
    first_token = static_cast<const std::byte*>(rows.data) + (batch * rows.strides.batch + at) * bytes_of(rows);
  }
  __device__ static std::int64_t bytes_of(const RowsIn& rows) {
    return kElementsAre == ScanElements::kAny && rows.type == ElementType::kFloat32 ? 4 : 2;
  }
  __device__ const std::byte* token(int index) const { return first_token + std::int64_t{index} * row_bytes; }
  __device__ Raw load(const std::byte* at) const {
    if (kPrecise && wide) return *reinterpret_cast<const Raw*>(at);
    return *reinterpret_cast<const std::uint16_t*>(at);
  }
  __device__ static float value(Raw raw, ElementType type) {
    if constexpr (kElementsAre == ScanElements::kBf16) return __uint_as_float(static_cast<std::uint32_t>(raw) << 16);
    if constexpr (kElementsAre == ScanElements::kFp16) {
      return __half2float(__ushort_as_half(static_cast<unsigned short>(raw)));
    }
    return portable::to_float(raw, type);
  }
};

}  // namespace ringscan::cuda
