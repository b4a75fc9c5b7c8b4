#include "core/element_type.hpp"

#include <cmath>
#include <cstring>
#include <string>

#include "core/error.hpp"

namespace ringscan {

std::string_view name_of(ElementType type) {
  switch (type) {
    case ElementType::kFloat64:
      return "float64";
    case ElementType::kFloat32:
      return "float32";
    case ElementType::kFloat16:
      return "float16";
    case ElementType::kBfloat16:
      return "bfloat16";
  }
  return "unknown";
}

ElementType parse_element_type(std::string_view name) {
  if (name == "float64" || name == "f64") return ElementType::kFloat64;
  if (name == "float32" || name == "f32") return ElementType::kFloat32;
  if (name == "float16" || name == "f16") return ElementType::kFloat16;
  if (name == "bfloat16" || name == "bf16") return ElementType::kBfloat16;
  throw bad_input("unknown element type '" + std::string(name) + "': want float64, float32, float16 or bfloat16");
}

float to_float(Float16 x) {
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000u) << 16;
  const std::uint32_t exponent = (x.bits >> 10) & 0x1fu;
  const std::uint32_t mantissa = x.bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  // Subnormal: mantissa * 2^-24 is exact in float.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

Bfloat16 to_bfloat16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if (std::isnan(x)) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

Float16 to_float16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};  // rounds to 2^16 or over
  if (magnitude < 0x38800000u) {  // under 2^-14: subnormal, in units of 2^-24; the default rounding mode ties to even
    const auto units = static_cast<std::uint16_t>(std::nearbyint(std::bit_cast<float>(magnitude) * 0x1p24f));
    return {static_cast<std::uint16_t>(sign | units)};
  }
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return {static_cast<std::uint16_t>(sign | ((rounded >> 13) - (112u << 10)))};
}

namespace {

template <typename From, typename To>
void convert_typed(const void* from, void* to, std::size_t count) {
  const auto* source = static_cast<const From*>(from);
  auto* target = static_cast<To*>(to);
  for (std::size_t i = 0; i < count; ++i) target[i] = from_float<To>(to_float(source[i]));
}

}  // namespace

void convert_elements(const void* from, ElementType from_type, void* to, ElementType to_type, std::size_t count) {
  if (from_type == to_type) {
    if (count > 0) std::memcpy(to, from, count * size_of(from_type));
    return;
  }
  visit_element_type(from_type, [&](auto source) {
    visit_element_type(to_type,
                       [&](auto target) { convert_typed<decltype(source), decltype(target)>(from, to, count); });
  });
}

bool all_finite(const void* data, ElementType type, std::size_t count) {
  bool finite = true;
  // The exponent field alone decides; testing bits keeps the loop free of branches.
  const auto scan = [&](const auto* bits, auto exponent_mask) {
    for (std::size_t i = 0; i < count; ++i) finite &= (bits[i] & exponent_mask) != exponent_mask;
  };
  switch (type) {
    case ElementType::kFloat64:
      scan(static_cast<const std::uint64_t*>(data), std::uint64_t{0x7ff0000000000000u});
      break;
    case ElementType::kFloat32:
      scan(static_cast<const std::uint32_t*>(data), std::uint32_t{0x7f800000u});
      break;
    case ElementType::kFloat16:
      scan(static_cast<const std::uint16_t*>(data), std::uint16_t{0x7c00u});
      break;
    case ElementType::kBfloat16:
      scan(static_cast<const std::uint16_t*>(data), std::uint16_t{0x7f80u});
      break;
  }
  return finite;
}

}  // namespace ringscan
