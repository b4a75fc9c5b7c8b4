// Conversions of the 16-bit types, over all their values.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/element_type.hpp"
#include "core/error.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// The value of a 16-bit pattern with that many mantissa bits, from the definition of the format.
double value_of(std::uint32_t bits, int mantissa_bits, int bias) {
  const std::uint32_t exponent_mask = (1u << (15 - mantissa_bits)) - 1u;
  const std::uint32_t exponent = (bits >> mantissa_bits) & exponent_mask;
  const std::uint32_t mantissa = bits & ((1u << mantissa_bits) - 1u);
  const double sign = (bits & 0x8000u) != 0 ? -1.0 : 1.0;
  if (exponent == exponent_mask) return mantissa != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(static_cast<double>(mantissa), 1 - bias - mantissa_bits);
  const double significand = static_cast<double>(mantissa + (1u << mantissa_bits));
  return sign * std::ldexp(significand, static_cast<int>(exponent) - bias - mantissa_bits);
}

template <typename T>
struct Format;
template <>
struct Format<Float16> {
  static constexpr int kMantissaBits = 10;
  static constexpr int kBias = 15;
  static constexpr std::uint32_t kInfinityBits = 0x7c00;
};
template <>
struct Format<Bfloat16> {
  static constexpr int kMantissaBits = 7;
  static constexpr int kBias = 127;
  static constexpr std::uint32_t kInfinityBits = 0x7f80;
};

template <typename T>
T pattern(std::uint32_t bits) {
  return T{static_cast<std::uint16_t>(bits)};
}

/// How many of the 65536 patterns do not have their value, or do not come back.
template <typename T>
int count_wrong_patterns() {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const float value = to_float(pattern<T>(bits));
    const double wanted = value_of(bits, Format<T>::kMantissaBits, Format<T>::kBias);
    const T back = from_float<T>(value);
    if (std::isnan(wanted)) {
      const bool stays_nan =
          std::isnan(value) && std::isnan(to_float(back)) && (back.bits & 0x8000u) == (bits & 0x8000u);
      wrong += stays_nan ? 0 : 1;
    } else {
      wrong += static_cast<double>(value) == wanted && back.bits == bits ? 0 : 1;
    }
  }
  return wrong;
}

/// Around the middle between each two neighbours: below goes down, the tie goes to the even one, above goes up.
template <typename T>
int count_wrong_ties() {
  int wrong = 0;
  for (const std::uint32_t sign : {0u, 0x8000u}) {
    for (std::uint32_t low = 0; low < Format<T>::kInfinityBits; ++low) {
      const std::uint32_t high = low + 1;  // infinity stands where the next value would
      const double low_value = value_of(low, Format<T>::kMantissaBits, Format<T>::kBias);
      const double high_value = high == Format<T>::kInfinityBits
                                    ? std::ldexp(1.0, Format<T>::kBias + 1)
                                    : value_of(high, Format<T>::kMantissaBits, Format<T>::kBias);
      const float middle = static_cast<float>((low_value + high_value) / 2);  // exact
      const auto rounds_to = [&](float x, std::uint32_t bits) {
        return from_float<T>(sign != 0 ? -x : x).bits == (bits | sign);
      };
      wrong += rounds_to(middle, low % 2 == 0 ? low : high) ? 0 : 1;
      wrong += rounds_to(std::nextafter(middle, 0.0f), low) ? 0 : 1;
      wrong += rounds_to(std::nextafter(middle, kInfinity), high) ? 0 : 1;
    }
  }
  return wrong;
}

}  // namespace

TEST_CASE("All 65536 patterns of both 16-bit types have their value and come back", "[element_type]") {
  REQUIRE(count_wrong_patterns<Float16>() == 0);
  REQUIRE(count_wrong_patterns<Bfloat16>() == 0);
}

TEST_CASE("Rounding to 16 bits is to nearest, ties to even", "[element_type]") {
  REQUIRE(count_wrong_ties<Float16>() == 0);
  REQUIRE(count_wrong_ties<Bfloat16>() == 0);
}

TEST_CASE("Values out of range become infinite or zero", "[element_type]") {
  REQUIRE(to_float16(65519.0f).bits == 0x7bff);
  REQUIRE(to_float16(65520.0f).bits == 0x7c00);
  REQUIRE(to_float16(-1e30f).bits == 0xfc00);
  REQUIRE(to_float16(kInfinity).bits == 0x7c00);
  REQUIRE(to_float16(0x1p-25f).bits == 0);
  REQUIRE(to_float16(-1e-30f).bits == 0x8000);
  REQUIRE(to_bfloat16(std::numeric_limits<float>::max()).bits == 0x7f80);
  REQUIRE(to_bfloat16(-kInfinity).bits == 0xff80);
  REQUIRE(to_bfloat16(std::numeric_limits<float>::denorm_min()).bits == 0);
  // A NaN whose upper mantissa bits are all zero must not turn into infinity.
  REQUIRE(std::isnan(to_float(to_bfloat16(std::bit_cast<float>(0x7f800001u)))));
  REQUIRE(std::isnan(to_float(to_float16(std::bit_cast<float>(0xff800001u)))));
}

TEST_CASE("Arrays convert between any two types", "[element_type]") {
  const std::vector<double> values = {0.0, -0.0, 1.0, -2.5, 0.15625, 448.0, 1024.0};  // exact in all types
  const ElementType types[] = {ElementType::kFloat64, ElementType::kFloat32, ElementType::kFloat16,
                               ElementType::kBfloat16};
  const std::size_t count = values.size();
  for (const ElementType first : types) {
    for (const ElementType second : types) {
      std::vector<std::byte> as_first(count * size_of(first));
      std::vector<std::byte> as_second(count * size_of(second));
      std::vector<double> back(count, -1.0);
      convert_elements(values.data(), ElementType::kFloat64, as_first.data(), first, count);
      convert_elements(as_first.data(), first, as_second.data(), second, count);
      convert_elements(as_second.data(), second, back.data(), ElementType::kFloat64, count);
      REQUIRE(back == values);
      REQUIRE(std::signbit(back[1]));
    }
  }
  convert_elements(nullptr, ElementType::kFloat32, nullptr, ElementType::kFloat16, 0);
  convert_elements(nullptr, ElementType::kFloat32, nullptr, ElementType::kFloat32, 0);
}

TEST_CASE("A single value that is not finite is found in any type", "[element_type]") {
  for (const ElementType type :
       {ElementType::kFloat64, ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16}) {
    for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
      for (const std::size_t place : {std::size_t{0}, std::size_t{500}, std::size_t{1000}}) {
        std::vector<double> values(1001, -1.5);
        std::vector<std::byte> elements(values.size() * size_of(type));
        convert_elements(values.data(), ElementType::kFloat64, elements.data(), type, values.size());
        REQUIRE(all_finite(elements.data(), type, values.size()));
        values[place] = bad;
        convert_elements(values.data(), ElementType::kFloat64, elements.data(), type, values.size());
        REQUIRE(!all_finite(elements.data(), type, values.size()));
      }
    }
    REQUIRE(all_finite(nullptr, type, 0));
  }
}

TEST_CASE("Element types have names, and names give types", "[element_type]") {
  for (const ElementType type :
       {ElementType::kFloat64, ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16}) {
    REQUIRE(parse_element_type(name_of(type)) == type);
    REQUIRE(visit_element_type(type, [](auto element) { return sizeof(element); }) == size_of(type));
  }
  REQUIRE(parse_element_type("f64") == ElementType::kFloat64);
  REQUIRE(parse_element_type("f32") == ElementType::kFloat32);
  REQUIRE(parse_element_type("f16") == ElementType::kFloat16);
  REQUIRE(parse_element_type("bf16") == ElementType::kBfloat16);
  ExitCode code = ExitCode::kDone;
  try {
    parse_element_type("int8");
  } catch (const Error& error) {
    code = error.code();
    REQUIRE(std::string(error.what()).find("'int8'") != std::string::npos);
  }
  REQUIRE(code == ExitCode::kBadInput);
}
