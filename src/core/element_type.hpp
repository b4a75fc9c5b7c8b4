#pragma once
// Element types of activations, and their scalar conversions to and from float.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace ringscan {

/// Types that activation files hold. In memory a rank keeps the last three as they are, and float64 as float32.
enum class ElementType : std::uint8_t { kFloat64, kFloat32, kFloat16, kBfloat16 };

constexpr std::size_t size_of(ElementType type) {
  switch (type) {
    case ElementType::kFloat64:
      return 8;
    case ElementType::kFloat32:
      return 4;
    case ElementType::kFloat16:
      return 2;
    case ElementType::kBfloat16:
      return 2;
  }
  return 0;
}

/// "float64", "float32", "float16", "bfloat16".
std::string_view name_of(ElementType type);

/// Accepts those names and f64, f32, f16, bf16. @throws Error(kBadInput) on another.
ElementType parse_element_type(std::string_view name);

/// The 16 bits of a bfloat16 (8 exponent bits, 7 of mantissa) and of an IEEE binary16, so that views can tell them
/// apart.
struct Bfloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

inline float to_float(float x) {
  return x;
}
inline float to_float(double x) {
  return static_cast<float>(x);
}
inline float to_float(Bfloat16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}
float to_float(Float16 x);

/// Rounded to nearest, ties to even; NaN stays NaN, overflow becomes infinity.
Bfloat16 to_bfloat16(float x);
Float16 to_float16(float x);

template <typename T>
T from_float(float x);
template <>
inline double from_float<double>(float x) {
  return x;
}
template <>
inline float from_float<float>(float x) {
  return x;
}
template <>
inline Bfloat16 from_float<Bfloat16>(float x) {
  return to_bfloat16(x);
}
template <>
inline Float16 from_float<Float16>(float x) {
  return to_float16(x);
}

/// Calls `f` with a value of the C++ type that stands for `type`, so that a loop over elements is compiled once a type.
template <typename F>
decltype(auto) visit_element_type(ElementType type, F&& f) {
  switch (type) {
    case ElementType::kFloat64:
      return f(double{});
    case ElementType::kFloat16:
      return f(Float16{});
    case ElementType::kBfloat16:
      return f(Bfloat16{});
    case ElementType::kFloat32:
      break;
  }
  return f(float{});
}

/// Converts `count` elements at `from` (of `from_type`) to `to_type` at `to`; through float, so float64 is rounded.
void convert_elements(const void* from, ElementType from_type, void* to, ElementType to_type, std::size_t count);

/// True where none of the `count` elements is NaN or infinite.
bool all_finite(const void* data, ElementType type, std::size_t count);

}  // namespace ringscan
