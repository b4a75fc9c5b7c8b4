#include "io/hdf5_types.hpp"

#include <array>
#include <cstdint>

namespace ringscan {
namespace {

/// Sign, exponent and mantissa from the top bit down, without gaps.
struct FloatFormat {
  ElementType type;
  std::size_t bits;
  std::size_t exponent_bits;
  std::size_t exponent_bias;

  std::size_t mantissa_bits() const { return bits - 1 - exponent_bits; }
};

constexpr std::array<FloatFormat, 4> kFormats{{{ElementType::kFloat64, 64, 11, 1023},
                                               {ElementType::kFloat32, 32, 8, 127},
                                               {ElementType::kFloat16, 16, 5, 15},
                                               {ElementType::kBfloat16, 16, 8, 127}}};

bool has_format(hid_t type, const FloatFormat& format) {
  std::size_t sign_at = 0, exponent_at = 0, exponent_bits = 0, mantissa_at = 0, mantissa_bits = 0;
  checked(H5Tget_fields(type, &sign_at, &exponent_at, &exponent_bits, &mantissa_at, &mantissa_bits));
  return H5Tget_size(type) * 8 == format.bits && H5Tget_precision(type) == format.bits && H5Tget_offset(type) == 0 &&
         sign_at == format.bits - 1 && exponent_at == format.mantissa_bits() && mantissa_at == 0 &&
         exponent_bits == format.exponent_bits && mantissa_bits == format.mantissa_bits() &&
         H5Tget_ebias(type) == format.exponent_bias && H5Tget_norm(type) == H5T_NORM_IMPLIED;
}

template <typename Word, typename Swap>
void swap_words(void* data, std::size_t count, Swap swap) {
  auto* words = static_cast<Word*>(data);
  for (std::size_t i = 0; i < count; ++i) words[i] = swap(words[i]);
}

}  // namespace

Hdf5Type make_hdf5_type(ElementType type) {
  if (type == ElementType::kFloat64) return Hdf5Type(checked(H5Tcopy(H5T_NATIVE_DOUBLE)));
  Hdf5Type made(checked(H5Tcopy(H5T_NATIVE_FLOAT)));
  for (const FloatFormat& format : kFormats) {
    if (format.type != type || type == ElementType::kFloat32) continue;
    // The fields first: the size can only shrink to what they leave free.
    checked(H5Tset_fields(made.get(), format.bits - 1, format.mantissa_bits(), format.exponent_bits, 0,
                          format.mantissa_bits()));
    checked(H5Tset_size(made.get(), format.bits / 8));
    checked(H5Tset_ebias(made.get(), format.exponent_bias));
  }
  return made;
}

std::optional<ElementType> recognise_hdf5_type(hid_t type) {
  const H5T_order_t order = H5Tget_class(type) == H5T_FLOAT ? H5Tget_order(type) : H5T_ORDER_NONE;
  if (order != H5T_ORDER_LE && order != H5T_ORDER_BE) return std::nullopt;
  for (const FloatFormat& format : kFormats) {
    if (has_format(type, format)) return format.type;
  }
  return std::nullopt;
}

bool is_byte_swapped(hid_t type) {
  return H5Tget_order(type) != H5Tget_order(H5T_NATIVE_FLOAT);
}

std::string describe_hdf5_type(hid_t type) {
  const std::string bits = std::to_string(H5Tget_size(type) * 8) + "-bit ";
  switch (H5Tget_class(type)) {
    case H5T_INTEGER:
      return (H5Tget_sign(type) == H5T_SGN_NONE ? "unsigned " : "") + bits + "integer";
    case H5T_FLOAT:
      return bits + "float of another layout";
    case H5T_STRING:
      return "text";
    case H5T_BITFIELD:
      return bits + "bit field";
    case H5T_COMPOUND:
      return "compound (complex numbers are stored so)";
    case H5T_ENUM:
      return "enumeration (boolean values are stored so)";
    case H5T_ARRAY:
      return "array type";
    case H5T_VLEN:
      return "variable-length sequence";
    case H5T_REFERENCE:
      return "reference";
    default:
      return "opaque type";
  }
}

void swap_bytes(void* data, ElementType type, std::size_t count) {
  switch (size_of(type)) {
    case 2:
      return swap_words<std::uint16_t>(data, count, [](std::uint16_t x) { return __builtin_bswap16(x); });
    case 4:
      return swap_words<std::uint32_t>(data, count, [](std::uint32_t x) { return __builtin_bswap32(x); });
    default:
      return swap_words<std::uint64_t>(data, count, [](std::uint64_t x) { return __builtin_bswap64(x); });
  }
}

}  // namespace ringscan
