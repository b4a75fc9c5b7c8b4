#pragma once
// Borrowed views of 4-d tensors [batch, seq, head, dim]. The last dimension is contiguous; offsets are 64-bit.

#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/element_type.hpp"

namespace ringscan {

/// Extents (batch, seq, head, dim), in elements.
using Shape4 = std::array<std::int64_t, 4>;

constexpr std::int64_t element_count(const Shape4& shape) {
  return shape[0] * shape[1] * shape[2] * shape[3];
}

/// Strides of a dense row-major tensor of that shape, in elements.
constexpr Shape4 dense_strides(const Shape4& shape) {
  return {shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1};
}

/// @pre strides[3] == 1.
template <typename T>
struct TensorView {
  T* data = nullptr;
  Shape4 shape{};
  Shape4 strides{};

  /// First element of the row (batch, token, head, 0).
  T* row(std::int64_t batch, std::int64_t token, std::int64_t head) const {
    return data + batch * strides[0] + token * strides[1] + head * strides[2];
  }
};

template <typename T>
TensorView<T> dense_view(T* data, const Shape4& shape) {
  return {data, shape, dense_strides(shape)};
}

/// A view whose element type is known at run time. `Byte` is std::byte or const std::byte.
template <typename Byte>
struct BasicAnyView {
  Byte* data = nullptr;
  ElementType type = ElementType::kFloat32;
  Shape4 shape{};
  Shape4 strides{};  ///< in elements; strides[3] == 1

  Byte* row(std::int64_t batch, std::int64_t token, std::int64_t head) const {
    return data +
           (batch * strides[0] + token * strides[1] + head * strides[2]) * static_cast<std::int64_t>(size_of(type));
  }
  /// The tokens [first, first + count) of the same tensor.
  BasicAnyView tokens(std::int64_t first, std::int64_t count) const {
    assert(first >= 0 && count >= 0 && first + count <= shape[1]);
    BasicAnyView part = *this;
    part.data = data == nullptr ? nullptr : row(0, first, 0);
    part.shape[1] = count;
    return part;
  }
  operator BasicAnyView<const std::byte>() const requires(!std::is_const_v<Byte>) {
    return {data, type, shape, strides};
  }
};

using AnyView = BasicAnyView<const std::byte>;
using MutableAnyView = BasicAnyView<std::byte>;

inline AnyView dense_any_view(const void* data, ElementType type, const Shape4& shape) {
  return {static_cast<const std::byte*>(data), type, shape, dense_strides(shape)};
}
inline MutableAnyView dense_any_view(void* data, ElementType type, const Shape4& shape) {
  return {static_cast<std::byte*>(data), type, shape, dense_strides(shape)};
}

}  // namespace ringscan
