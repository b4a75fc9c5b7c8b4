#include "kernels/chela_kernels.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "kernels/cpu/chela_ops.hpp"
#include "kernels/cpu/fft_convolution.hpp"
#include "kernels/cpu/flush_denormals.hpp"

namespace ringscan {
namespace {

using namespace cpu;

void require(bool holds, const char* wanted) {
  if (!holds) throw failure(std::string("cpu chela kernels: ") + wanted);
}

class CpuChelaKernels final : public ChelaKernels {
 public:
  void convolve(const PlainConvTask& task) const override;

  std::unique_ptr<LongConvolution> plan_convolution(std::int64_t tokens, std::int64_t width,
                                                    std::int64_t /*channels*/) const override {
    require(tokens >= 1 && width >= 1, "a token and a tap");
    return make_fft_convolution(tokens, width);
  }
  std::size_t convolution_bytes(std::int64_t tokens, std::int64_t width) const override {
    return fft_convolution_bytes(tokens, width);
  }

  void transpose(const TransposeTask& task) const override;

  void affine(const float* z, std::int64_t rows, std::span<const float> factor, std::span<const float> offset,
              float* out) const override {
    const std::size_t channels = factor.size();
    require(offset.size() == channels, "an offset for every factor");
    for (std::int64_t row = 0; row < rows; ++row, z += channels, out += channels) {
      ops_.affine_row(z, factor.data(), offset.data(), channels, out);
    }
  }
  void silu(std::span<float> values) const override { ops_.silu(values.data(), values.size()); }
  void gate(std::span<float> values, const float* other) const override {
    ops_.gate(values.data(), other, values.size());
  }

 private:
  const ChelaOps& ops_ = chela_ops();
};

void CpuChelaKernels::convolve(const PlainConvTask& task) const {
  const FlushDenormals flush;
  const std::int64_t channels = task.in.shape[3];
  const auto width = static_cast<std::size_t>(task.width);
  const auto count = static_cast<std::size_t>(channels);
  require(task.width >= 1 && task.out.shape == task.in.shape, "a convolution's output shaped as its input");
  require(task.halo.shape[1] == task.width - 1 && task.halo.shape[3] == channels, "width - 1 inputs before the first");
  std::vector<float> weight(width * count);
  for (std::size_t j = 0; j < width; ++j) {
    for (std::size_t i = 0; i < count; ++i) weight[j * count + i] = task.taps[i * width + j];
  }
  std::vector<const float*> rows(width);
  for (std::int64_t batch = 0; batch < task.in.shape[0]; ++batch) {
    for (std::int64_t token = 0; token < task.in.shape[1]; ++token) {
      for (std::int64_t j = 0; j < task.width; ++j) {
        rows[static_cast<std::size_t>(j)] =
            token >= j ? task.in.row(batch, token - j, 0) : task.halo.row(batch, token - j + task.width - 1, 0);
      }
      ops_.conv_row(rows.data(), weight.data(), width, count, task.out.row(batch, token, 0));
    }
  }
}

/// Tile by tile, so that both sides are met in whole cache lines; along the longer side, whose lines lie far apart on
/// one of them.
void CpuChelaKernels::transpose(const TransposeTask& task) const {
  constexpr std::int64_t kTile = 16;  // as many floats as a cache line holds
  const auto move_tile = [&](std::int64_t row_begin, std::int64_t column_begin) {
    const std::int64_t row_end = std::min(task.rows, row_begin + kTile);
    const std::int64_t column_end = std::min(task.columns, column_begin + kTile);
    for (std::int64_t column = column_begin; column < column_end; ++column) {
      float* const to = task.to + column * task.to_stride;
      for (std::int64_t row = row_begin; row < row_end; ++row) to[row] = task.from[row * task.from_stride + column];
    }
  };
  if (task.rows >= task.columns) {
    for (std::int64_t row = 0; row < task.rows; row += kTile) {
      for (std::int64_t column = 0; column < task.columns; column += kTile) move_tile(row, column);
    }
  } else {
    for (std::int64_t column = 0; column < task.columns; column += kTile) {
      for (std::int64_t row = 0; row < task.rows; row += kTile) move_tile(row, column);
    }
  }
}

}  // namespace

std::unique_ptr<ChelaKernels> make_cpu_chela_kernels() {
  return std::make_unique<CpuChelaKernels>();
}

}  // namespace ringscan
