#pragma once
// What one rank computes for a CHELA block beside the short convolution and the projections (ssm_kernels.hpp) and the
// linear attention (linear_kernels.hpp): long convolutions, the affine maps and the gates. Nothing here knows of ranks.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/tensor_view.hpp"

namespace ringscan {

/// A causal depthwise convolution without more: out_t = sum_j taps[j] in_(t - j).
struct PlainConvTask {
  TensorView<const float> halo;  ///< [batch, width - 1, 1, channels]: the inputs before the first token
  TensorView<const float> in;    ///< [batch, tokens, 1, channels]
  TensorView<float> out;         ///< like in; may not overlap it
  const float* taps = nullptr;   ///< [channels, width]
  std::int64_t width = 1;        ///< >= 1
};

/// One channel's convolution by FFT, for one length and one width; channel after channel goes through it. Not
/// thread-safe: one a rank. Bits depend on the numbers alone, not on which channel or rank they come from.
class LongConvolution {
 public:
  virtual ~LongConvolution() = default;
  virtual std::int64_t tokens() const = 0;
  virtual std::int64_t width() const = 0;

  /// taps[j] multiplies the input j tokens before. @pre taps.size() == width().
  virtual void set_taps(std::span<const float> taps) = 0;
  /// values[t] becomes sum_j taps[j] in_(t - j). `past`: the width() - 1 inputs before the first, or empty for zeros.
  /// @pre values.size() == tokens().
  virtual void run(std::span<const float> past, std::span<float> values) = 0;
};

class ChelaKernels {
 public:
  virtual ~ChelaKernels() = default;

  /// Direct, a multiply-add a tap: for short kernels. Bits do not depend on where runs of tokens begin.
  virtual void convolve(const PlainConvTask& task) const = 0;
  /// By FFT: for kernels up to the whole sequence. @pre tokens >= 1, width >= 1.
  virtual std::unique_ptr<LongConvolution> plan_convolution(std::int64_t tokens, std::int64_t width) const = 0;
  virtual std::size_t convolution_bytes(std::int64_t tokens, std::int64_t width) const = 0;

  /// out = factor z + offset, channel by channel. z and out [rows, channels], dense; out may be z.
  virtual void affine(const float* z, std::int64_t rows, std::span<const float> factor, std::span<const float> offset,
                      float* out) const = 0;
  /// values = silu(values).
  virtual void silu(std::span<float> values) const = 0;
  /// values = silu(values) * other.
  virtual void gate(std::span<float> values, const float* other) const = 0;
};

/// On the CPU: Highway, and FFTW in single precision with plans that do not depend on timing.
std::unique_ptr<ChelaKernels> make_cpu_chela_kernels();

}  // namespace ringscan
