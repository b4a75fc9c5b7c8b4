// What happens to partials between and after the attend kernels, those of attend.hpp too: identity, join, finish.
#include <cmath>

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/portable_tile.cuh"

namespace ringscan::cuda::portable {
namespace {

constexpr double kLn2 = 0.6931471805599453;

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

/// [batch, rows, heads, ...] of what finish reads and writes.
struct FinishParams {
  Rows block;
  const float *all_first, *all_sum;
  void* o;
  ElementType type;
  RowStrides o_strides;
  float* statistic;
  RowStrides statistic_strides;
  float* kept_mass;
  RowStrides kept_mass_strides;
  RowsIn own, vector;
  RemainderPolicy policy;
  std::int64_t num_rows;
  int num_slots;
  std::uint16_t q_head[kMaxSlots];
  std::uint16_t kv_head[kMaxSlots];
};

struct Place {
  std::int64_t batch, row;
  int q_head, kv_head;
  __device__ Place(const FinishParams& p, std::int64_t index) {
    row = index % p.num_rows;
    const std::int64_t stream = index / p.num_rows;
    batch = stream / p.num_slots;
    q_head = p.q_head[stream % p.num_slots];
    kv_head = p.kv_head[stream % p.num_slots];
  }
  __device__ std::int64_t in(const RowStrides& s, int head) const {
    return batch * s.batch + row * s.row + head * s.head;
  }
};

__global__ void finish_softmax_kernel(const __grid_constant__ FinishParams p) {
  for_each_row(p.block.count, [&](std::int64_t index, std::int64_t lane) {
    const Place place(p, index);
    const float sum = p.block.sum[index];
    const float divisor = sum == 0.0f ? 1.0f : sum;
    const std::int64_t to = place.in(p.o_strides, place.q_head);
    for (std::int64_t d = lane; d < p.block.v_dim; d += 32) {
      store_element(p.o, p.type, to + d, p.block.out[index * p.block.v_dim + d] / divisor);
    }
    if (lane != 0) return;
    const double max = static_cast<double>(p.block.first[index]);
    if (p.statistic != nullptr) {
      p.statistic[place.in(p.statistic_strides, place.q_head)] =
          sum == 0.0f ? -INFINITY : static_cast<float>(max * kLn2 + log(static_cast<double>(sum)));
    }
    if (p.kept_mass != nullptr) {
      const double share = exp2(max - static_cast<double>(p.all_first[index])) * static_cast<double>(sum) /
                           static_cast<double>(p.all_sum[index]);
      p.kept_mass[place.in(p.kept_mass_strides, place.q_head)] = static_cast<float>(share > 1.0 ? 1.0 : share);
    }
  });
}

__global__ void finish_stick_kernel(const __grid_constant__ FinishParams p) {
  for_each_row(p.block.count, [&](std::int64_t index, std::int64_t lane) {
    const Place place(p, index);
    const float remainder = exp2f(p.block.first[index]);
    const std::int64_t to = place.in(p.o_strides, place.q_head);
    for (std::int64_t d = lane; d < p.block.v_dim; d += 32) {
      float x = p.block.out[index * p.block.v_dim + d];
      if (p.policy == RemainderPolicy::kValue) {
        x = fmaf(remainder, load_element(p.own.data, p.own.type, place.in(p.own.strides, place.kv_head) + d), x);
      } else if (p.policy == RemainderPolicy::kVector) {
        x = fmaf(remainder,
                 load_element(p.vector.data, p.vector.type, place.q_head * p.vector.strides.head + d), x);
      }
      store_element(p.o, p.type, to + d, x);
    }
    if (lane == 0 && p.statistic != nullptr) p.statistic[place.in(p.statistic_strides, place.q_head)] = remainder;
  });
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

template <typename View>
RowStrides strides_of(const View& view) {
  return {view.strides[0], view.strides[1], view.strides[2]};
}
RowsIn rows_in(const AnyView& view) {
  return {view.data, view.type, strides_of(view)};
}

FinishParams finish_params(const FinishTask& task, const DevicePartial& block) {
  if (task.slots.size() > static_cast<std::size_t>(kMaxSlots)) throw failure("CUDA finish: wanted at most 256 heads");
  FinishParams p{};
  p.block = rows_of(block);
  p.o = task.o.data;
  p.type = task.o.type;
  p.o_strides = strides_of(task.o);
  p.statistic = task.statistic.data;
  p.statistic_strides = strides_of(task.statistic);
  p.kept_mass = task.kept_mass.data;
  p.kept_mass_strides = strides_of(task.kept_mass);
  p.own = rows_in(task.v_own);
  p.vector = rows_in(task.remainder_value);
  p.num_rows = block.shape.rows;
  p.num_slots = static_cast<int>(task.slots.size());
  for (std::size_t i = 0; i < task.slots.size(); ++i) {
    p.q_head[i] = static_cast<std::uint16_t>(task.slots[i].q_head);
    p.kv_head[i] = static_cast<std::uint16_t>(task.slots[i].kv_head);
  }
  return p;
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

void finish_softmax(const FinishTask& task, const DevicePartial& block, const DevicePartial* all,
                    cudaStream_t stream) {
  FinishParams p = finish_params(task, block);
  if (p.kept_mass != nullptr && all == nullptr) throw failure("CUDA finish: kept_mass needs the weights of all keys");
  if (all != nullptr) {
    p.all_first = all->first;
    p.all_sum = all->sum;
  }
  launch_rows(finish_softmax_kernel, p.block.count, stream, p);
}

void finish_stick_breaking(const FinishTask& task, const StickBreakingParams& params, const DevicePartial& block,
                           cudaStream_t stream) {
  FinishParams p = finish_params(task, block);
  p.policy = params.remainder;
  launch_rows(finish_stick_kernel, p.block.count, stream, p);
}

}  // namespace ringscan::cuda::portable
