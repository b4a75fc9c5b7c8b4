#pragma once
// What one rank computes for a CHELA block beside the short convolution and the projections (ssm_kernels.hpp) and the
// linear attention (linear_kernels.hpp): long convolutions, the affine maps and the gates. Nothing here knows of ranks.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/memory_space.hpp"
#include "core/tensor_view.hpp"
#include "kernels/kernels.hpp"

namespace ringscan {

/// A causal depthwise convolution without more: out_t = sum_j taps[j] in_(t - j).
struct PlainConvTask {
  TensorView<const float> halo;  ///< [batch, width - 1, 1, channels]: the inputs before the first token
  TensorView<const float> in;    ///< [batch, tokens, 1, channels]
  TensorView<float> out;         ///< like in; may not overlap it
  const float* taps = nullptr;   ///< [channels, width]
  std::int64_t width = 1;        ///< >= 1
};

/// Long convolutions of channels that lie side by side: values become sum_j taps[j] in_(t - j).
struct RowsConvTask {
  TensorView<const float> halo;  ///< [batch, width - 1, 1, channels]: the inputs before; data == nullptr: zeros
  TensorView<float> values;      ///< [batch, tokens, 1, channels], dense: the inputs, which become the outputs
  const float* taps = nullptr;   ///< [channels, width]
};

/// Likewise of channels that lie one behind the other.
struct LinesConvTask {
  const float* past = nullptr;  ///< [channels, width - 1]: the inputs before, oldest first; nullptr: zeros
  float* values = nullptr;      ///< [channels, tokens]: the inputs, which become the outputs
  const float* taps = nullptr;  ///< [channels, width]
  std::int64_t channels = 0;
};

/// Convolutions by FFT, for one length and one width. Not thread-safe: one a rank. On the CPU bits depend on the
/// numbers alone, not on which channel or rank they come from.
class LongConvolution {
 public:
  virtual ~LongConvolution() = default;
  virtual std::int64_t tokens() const = 0;
  virtual std::int64_t width() const = 0;

  /// @pre values of tokens() tokens, a halo of width() - 1. Any number of channels, done in groups.
  virtual void run(const RowsConvTask& task) = 0;
  virtual void run(const LinesConvTask& task) = 0;
};

/// to[column to_stride + row] = from[row from_stride + column].
struct TransposeTask {
  const float* from = nullptr;  ///< [rows, columns], rows from_stride apart
  std::int64_t from_stride = 0;
  float* to = nullptr;  ///< [columns, rows], rows to_stride apart; may not overlap `from`
  std::int64_t to_stride = 0;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};

/// Memory, and when work is through: as SsmKernels says.
class ChelaKernels {
 public:
  virtual ~ChelaKernels() = default;

  virtual MemorySpace& work_memory() const { return host_memory(); }
  virtual void settle(Heartbeat&) const {}

  /// Direct, a multiply-add a tap: for short kernels. Bits do not depend on where runs of tokens begin.
  virtual void convolve(const PlainConvTask& task) const = 0;
  /// By FFT: for kernels up to the whole sequence. `channels`: the most that a task of it will have, for which a device
  /// sizes its groups. @pre all three >= 1. @throws Error(kFailure) where a transform would be too long.
  virtual std::unique_ptr<LongConvolution> plan_convolution(std::int64_t tokens, std::int64_t width,
                                                            std::int64_t channels) const = 0;
  /// Of the host's memory, beside the arguments.
  virtual std::size_t convolution_bytes(std::int64_t tokens, std::int64_t width) const = 0;
  /// How many lines of LinesConvTask a caller should have together where it can: what a device takes in one group.
  virtual std::int64_t lines_at_once(std::int64_t /*tokens*/, std::int64_t /*width*/) const { return 1; }

  virtual void transpose(const TransposeTask& task) const = 0;

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
