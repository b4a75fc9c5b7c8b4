#pragma once
// The blocks of kernels.hpp as the partials of attend.hpp.

#include "kernels/cuda/attend.hpp"

namespace ringscan::cuda {

/// As it is: at the identity unwritten.
inline DevicePartial unwritten_partial_of(const LseBlock& block) {
  // The launches write what the block owns; only finish() and join() see it as const, and they read.
  const auto floats = [](const Buffer& buffer) { return const_cast<float*>(buffer.as<float>()); };
  return {block.shape, floats(block.out), floats(block.max), floats(block.sum)};
}

inline DevicePartial unwritten_partial_of(const StickBlock& block) {
  const auto floats = [](const Buffer& buffer) { return const_cast<float*>(buffer.as<float>()); };
  return {block.shape, floats(block.out), floats(block.log2_stick), nullptr};
}

inline std::size_t rows_of(const PartialShape& shape) {
  return static_cast<std::size_t>(shape.batch * shape.slots * shape.rows);
}

inline std::size_t out_bytes(const PartialShape& shape) {
  return rows_of(shape) * static_cast<std::size_t>(shape.v_dim) * sizeof(float);
}

inline std::size_t row_bytes(const PartialShape& shape) {
  return rows_of(shape) * sizeof(float);
}

}  // namespace ringscan::cuda
