// What happens to partials between the attend kernels, those of attend.hpp too: identity, join.
#include <cmath>

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/portable_tile.cuh"

namespace ringscan::cuda::portable {
namespace {

struct Rows {
  std::int64_t count;  ///< of all slots and batch items
  std::int64_t v_dim;
  float *out, *first, *sum;
};

Rows rows_of(const DevicePartial& partial) {
  return {partial.shape.batch * partial.shape.slots * partial.shape.rows, partial.shape.v_dim, partial.out,
          partial.first, partial.sum};
}

/// Calls f(row, lane) with a warp a row.
template <typename F>
__device__ void for_each_row(std::int64_t count, F&& f) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x / 32;
  for (std::int64_t row = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32; row < count; row += step) {
    f(row, static_cast<std::int64_t>(threadIdx.x % 32));
  }
}

__global__ void reset_kernel(Rows rows, float first) {
  for_each_row(rows.count, [&](std::int64_t row, std::int64_t lane) {
    for (std::int64_t d = lane; d < rows.v_dim; d += 32) rows.out[row * rows.v_dim + d] = 0.0f;
    if (lane != 0) return;
    rows.first[row] = first;
    if (rows.sum != nullptr) rows.sum[row] = 0.0f;
  });
}

__global__ void join_softmax_kernel(Rows near, Rows far) {
  for_each_row(near.count, [&](std::int64_t row, std::int64_t lane) {
    const float most = fmaxf(near.first[row], far.first[row]);
    const float reference = most == -INFINITY ? 0.0f : most;
    const float near_factor = exp2f(near.first[row] - reference);
    const float far_factor = exp2f(far.first[row] - reference);
    for (std::int64_t d = lane; d < near.v_dim; d += 32) {
      float& out = near.out[row * near.v_dim + d];
      out = fmaf(far.out[row * near.v_dim + d], far_factor, out * near_factor);
    }
    const float sum = fmaf(far.sum[row], far_factor, near.sum[row] * near_factor);
    __syncwarp();  // all lanes have read
    if (lane != 0) return;
    near.first[row] = most;
    near.sum[row] = sum;
  });
}

__global__ void join_stick_kernel(Rows near, Rows far) {
  for_each_row(near.count, [&](std::int64_t row, std::int64_t lane) {
    const float stick = near.first[row];
    const float factor = exp2f(stick);
    for (std::int64_t d = lane; d < near.v_dim; d += 32) {
      float& out = near.out[row * near.v_dim + d];
      out = fmaf(far.out[row * near.v_dim + d], factor, out);
    }
    __syncwarp();
    if (lane == 0) near.first[row] = stick + far.first[row];
  });
}

__global__ void count_open_kernel(Rows rows, float log2_epsilon, std::uint32_t* open) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  std::uint32_t mine = 0;
  for (std::int64_t row = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; row < rows.count; row += step) {
    mine += rows.first[row] < log2_epsilon ? 0 : 1;
  }
  mine = __reduce_add_sync(0xFFFFFFFFu, mine);
  if (threadIdx.x % 32 == 0 && mine > 0) atomicAdd(open, mine);
}

__global__ void keep_fewer_kernel(std::uint32_t* near, const std::uint32_t* far) {
  *near = min(*near, *far);
}

unsigned blocks_for(std::int64_t rows) {
  return static_cast<unsigned>(rows < 8 * 4096 ? (rows + 7) / 8 : 4096);
}

template <typename Kernel, typename... Arguments>
void launch_rows(Kernel kernel, std::int64_t rows, cudaStream_t stream, const Arguments&... arguments) {
  if (rows == 0) return;
  kernel<<<blocks_for(rows), 256, 0, stream>>>(arguments...);
  check(cudaGetLastError());
}

}  // namespace

void reset_softmax(const DevicePartial& partial, cudaStream_t stream) {
  const Rows rows = rows_of(partial);
  launch_rows(reset_kernel, rows.count, stream, rows, -INFINITY);
}
void reset_stick_breaking(const DevicePartial& partial, cudaStream_t stream) {
  Rows rows = rows_of(partial);
  rows.sum = nullptr;
  launch_rows(reset_kernel, rows.count, stream, rows, 0.0f);
}

void count_open_rows(const DevicePartial& partial, double epsilon, std::uint32_t* open, cudaStream_t stream) {
  const Rows rows = rows_of(partial);
  const float log2_epsilon = epsilon > 0.0 ? static_cast<float>(std::log2(epsilon)) : -INFINITY;
  check(cudaMemsetAsync(open, 0, sizeof *open, stream));
  launch_rows(count_open_kernel, rows.count, stream, rows, log2_epsilon, open);
}

void keep_fewer(std::uint32_t* near, const std::uint32_t* far, cudaStream_t stream) {
  keep_fewer_kernel<<<1, 1, 0, stream>>>(near, far);
  check(cudaGetLastError());
}

void join_softmax(const DevicePartial& near, const DevicePartial& far, cudaStream_t stream) {
  const Rows rows = rows_of(near);
  launch_rows(join_softmax_kernel, rows.count, stream, rows, rows_of(far));
}
void join_stick_breaking(const DevicePartial& near, const DevicePartial& far, cudaStream_t stream) {
  const Rows rows = rows_of(near);
  launch_rows(join_stick_kernel, rows.count, stream, rows, rows_of(far));
}

}  // namespace ringscan::cuda::portable
