#pragma once
// What a convolution by FFT does to lines beside the transforms, on any device from sm_80 on. All pointers are device
// memory, all work is queued on the caller's stream. fp32.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/chela_kernels.hpp"

namespace ringscan::cuda {

/// As ChelaKernels::transpose.
void transpose(const TransposeTask& task, cudaStream_t stream);

/// A run of overlapping pieces of each line, and the signals that are transformed: piece p of line i is signal
/// i pieces + p, and begins at the line's element (first_piece + p) step.
struct Pieces {
  float* lines = nullptr;  ///< [num_lines], line_stride apart
  std::int64_t line_stride = 0;
  std::int64_t num_lines = 0;
  float* signals = nullptr;  ///< [num_lines pieces, length]
  std::int64_t length = 0;
  std::int64_t first_piece = 0;
  std::int64_t pieces = 1;
  std::int64_t step = 0;

  std::int64_t num_signals() const { return num_lines * pieces; }
};

/// Signals become pieces of lines that have `filled` elements, and zeros behind.
void cut_pieces(const Pieces& task, std::int64_t filled, cudaStream_t stream);
/// The elements from `skipped` on, step of them, of every signal become those of its line from (first_piece + p) step
/// on, as far as the line's first `wanted` elements.
void join_pieces(const Pieces& task, std::int64_t skipped, std::int64_t wanted, cudaStream_t stream);

/// values[i, p] *= factors[i] scale, complex, for lines i and pieces p: [num_lines, pieces, bins] and [num_lines,
/// bins].
void multiply_spectra(float2* values, const float2* factors, float scale, std::int64_t num_lines, std::int64_t pieces,
                      std::int64_t bins, cudaStream_t stream);

}  // namespace ringscan::cuda
