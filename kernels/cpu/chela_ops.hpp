#pragma once
// The inner loops of the CHELA block, compiled once for each instruction set. Any lengths.

#include <cstddef>

namespace ringscan::cpu {

struct ChelaOps {
  /// out[i] = sum_k weight[k][i] rows[k][i], k ascending; weight [width][channels].
  void (*conv_row)(const float* const* rows, const float* weight, std::size_t width, std::size_t channels, float* out);
  /// out[i] = factor[i] z[i] + offset[i].
  void (*affine_row)(const float* z, const float* factor, const float* offset, std::size_t channels, float* out);
  void (*silu)(float* values, std::size_t count);
  /// values[i] = silu(values[i]) other[i].
  void (*gate)(float* values, const float* other, std::size_t count);
  /// a[i] = a[i] b[i] for complex numbers as (re, im) pairs.
  void (*multiply_complex)(float* a, const float* b, std::size_t count);
};

const ChelaOps& chela_ops();

}  // namespace ringscan::cpu
