// One thread an element: elements of a signal along x, signals along y.

#include <algorithm>

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/long_conv_ops.hpp"

namespace ringscan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 32;
constexpr int kTileRows = 8;

std::int64_t ceil_of(std::int64_t count, std::int64_t unit) {
  return (count + unit - 1) / unit;
}

/// The rest by strides.
dim3 grid_for(std::int64_t elements, std::int64_t signals) {
  return {static_cast<unsigned>(std::min<std::int64_t>(ceil_of(elements, kThreads), 4096)),
          static_cast<unsigned>(std::min<std::int64_t>(signals, 4096))};
}

__device__ std::int64_t first_x() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ std::int64_t step_x() {
  return static_cast<std::int64_t>(gridDim.x) * blockDim.x;
}

/// Tile by tile through shared memory, so that both sides are met in whole lines.
__global__ void transpose_kernel(TransposeTask task, std::int64_t tiles_across, std::int64_t tiles) {
  __shared__ float tile[kTile][kTile + 1];
  for (std::int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const std::int64_t first_row = index / tiles_across * kTile, first_column = index % tiles_across * kTile;
    for (int i = threadIdx.y; i < kTile; i += kTileRows) {
      const std::int64_t row = first_row + i, column = first_column + threadIdx.x;
      if (row < task.rows && column < task.columns) {
        tile[i][threadIdx.x] = task.from[row * task.from_stride + column];
      }
    }
    __syncthreads();
    for (int i = threadIdx.y; i < kTile; i += kTileRows) {
      const std::int64_t row = first_row + threadIdx.x, column = first_column + i;
      if (row < task.rows && column < task.columns) task.to[column * task.to_stride + row] = tile[threadIdx.x][i];
    }
    __syncthreads();
  }
}

__global__ void cut_kernel(Pieces task, std::int64_t filled, std::int64_t num_signals) {
  for (std::int64_t signal = blockIdx.y; signal < num_signals; signal += gridDim.y) {
    const float* const line = task.lines + signal / task.pieces * task.line_stride;
    const std::int64_t begin = (task.first_piece + signal % task.pieces) * task.step;
    float* const to = task.signals + signal * task.length;
    for (std::int64_t i = first_x(); i < task.length; i += step_x()) {
      to[i] = begin + i < filled ? line[begin + i] : 0.0f;
    }
  }
}

__global__ void join_kernel(Pieces task, std::int64_t skipped, std::int64_t wanted, std::int64_t num_signals) {
  for (std::int64_t signal = blockIdx.y; signal < num_signals; signal += gridDim.y) {
    float* const line = task.lines + signal / task.pieces * task.line_stride;
    const std::int64_t begin = (task.first_piece + signal % task.pieces) * task.step;
    const float* const from = task.signals + signal * task.length + skipped;
    for (std::int64_t i = first_x(); i < task.step && begin + i < wanted; i += step_x()) line[begin + i] = from[i];
  }
}

__global__ void multiply_kernel(float2* values, const float2* factors, float scale, std::int64_t pieces,
                                std::int64_t bins, std::int64_t num_signals) {
  for (std::int64_t signal = blockIdx.y; signal < num_signals; signal += gridDim.y) {
    const float2* const factor = factors + signal / pieces * bins;
    float2* const value = values + signal * bins;
    for (std::int64_t i = first_x(); i < bins; i += step_x()) {
      const float2 x = value[i], y = factor[i];
      value[i] = {scale * (x.x * y.x - x.y * y.y), scale * (x.x * y.y + x.y * y.x)};
    }
  }
}

}  // namespace

void transpose(const TransposeTask& task, cudaStream_t stream) {
  if (task.rows == 0 || task.columns == 0) return;
  const std::int64_t tiles_across = ceil_of(task.columns, kTile), tiles = ceil_of(task.rows, kTile) * tiles_across;
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>(tiles, 1 << 20));
  transpose_kernel<<<blocks, dim3(kTile, kTileRows), 0, stream>>>(task, tiles_across, tiles);
  check(cudaGetLastError());
}

void cut_pieces(const Pieces& task, std::int64_t filled, cudaStream_t stream) {
  if (task.num_signals() == 0) return;
  cut_kernel<<<grid_for(task.length, task.num_signals()), kThreads, 0, stream>>>(task, filled, task.num_signals());
  check(cudaGetLastError());
}

void join_pieces(const Pieces& task, std::int64_t skipped, std::int64_t wanted, cudaStream_t stream) {
  if (task.num_signals() == 0) return;
  join_kernel<<<grid_for(task.step, task.num_signals()), kThreads, 0, stream>>>(task, skipped, wanted,
                                                                               task.num_signals());
  check(cudaGetLastError());
}

void multiply_spectra(float2* values, const float2* factors, float scale, std::int64_t num_lines, std::int64_t pieces,
                      std::int64_t bins, cudaStream_t stream) {
  const std::int64_t num_signals = num_lines * pieces;
  if (num_signals == 0) return;
  multiply_kernel<<<grid_for(bins, num_signals), kThreads, 0, stream>>>(values, factors, scale, pieces, bins,
                                                                        num_signals);
  check(cudaGetLastError());
}

}  // namespace ringscan::cuda
