// What the parts of a cut work item leave is added to the item's carried partial, or with it becomes the finished rows.
#include "kernels/cuda/attend_launch_sm90.hpp"
#include "kernels/cuda/check.hpp"
#include "kernels/cuda/score_math.cuh"
#include "kernels/cuda/wgmma_sm90.cuh"
#include "kernels/cuda/work_order.hpp"

namespace ringscan::cuda {
namespace {

constexpr int kWarps = 8;

/// Rows of partials: a row's head_dim values, and what its sums are relative to.
struct PartialRow {
  float4* out;
  float* first;
  float* sum;

  __device__ PartialRow(float* outs, float* firsts, float* sums, std::int64_t row, int head_dim)
      : out(reinterpret_cast<float4*>(outs + row * head_dim)), first(firsts + row), sum(sums + row) {}
};

__device__ void add_scaled(float4& to, const float4& x, float factor) {
  to.x = fmaf(x.x, factor, to.x);
  to.y = fmaf(x.y, factor, to.y);
  to.z = fmaf(x.z, factor, to.z);
  to.w = fmaf(x.w, factor, to.w);
}

/// A row of o and its statistic.
struct FinishedRow {
  void* o = nullptr;  ///< null: rows are carried on
  float* statistic = nullptr;
  bool is_bf16 = false;

  __device__ FinishedRow(const AttendParams& p, const QueryTile& tile, std::int64_t row, bool is_bf16_)
      : is_bf16(is_bf16_) {
    if (!p.finishes) return;
    const auto offset = [&](const RowStrides& strides) {
      return tile.batch * strides.batch + row * strides.row + p.q_head[tile.slot] * strides.head;
    };
    o = static_cast<std::uint16_t*>(p.o) + offset(p.o_strides);
    if (p.statistic != nullptr) statistic = p.statistic + offset(p.statistic_strides);
  }

  __device__ void store(int column, const float4& x, float factor) const {
    static_cast<uint2*>(o)[column] = is_bf16 ? packed<Bf16>(x, factor) : packed<Fp16>(x, factor);
  }

 private:
  template <typename Element>
  __device__ static uint2 packed(const float4& x, float factor) {
    return {Element::pack(x.x * factor, x.y * factor), Element::pack(x.z * factor, x.w * factor)};
  }
};

/// Those of a carried row's parts, the nearest first.
struct PartRows {
  const AttendParams& p;
  std::int64_t first;  ///< place of the first among the rows of parts
  int rows_a_tile;

  __device__ PartialRow operator()(std::uint32_t i) const {
    return {p.part_out, p.part_first, p.part_sum, first + std::int64_t{i} * rows_a_tile, p.head_dim};
  }
};

/// Sums relative to the larger maximum.
__device__ void join_lse(const PartialRow& near, const AttendParams& p, const PartRows& part,
                         const FinishedRow& finished) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float near_max = *near.first;
  float max = near_max;
  for (std::uint32_t i = 0; i + 1 < p.num_parts; ++i) max = fmaxf(max, *part(i).first);
  const float reference = max == -INFINITY ? 0.0f : max;  // no key seen: sums stay 0, not NaN
  const float own_factor = exp2f(near_max - reference);
  float sum = *near.sum * own_factor;
  for (std::uint32_t i = 0; i + 1 < p.num_parts; ++i) sum = fmaf(*part(i).sum, exp2f(*part(i).first - reference), sum);
  for (int column = lane; column < p.head_dim / 4; column += 32) {
    float4 out{};
    add_scaled(out, near.out[column], own_factor);
    for (std::uint32_t i = 0; i + 1 < p.num_parts; ++i) {
      add_scaled(out, part(i).out[column], exp2f(*part(i).first - reference));
    }
    if (finished.o != nullptr) {
      finished.store(column, out, sum > 0.0f ? 1.0f / sum : 0.0f);
    } else {
      near.out[column] = out;
    }
  }
  __syncwarp();  // all lanes have read
  if (lane != 0) return;
  if (finished.statistic != nullptr) *finished.statistic = (max + log2f(sum)) * kLn2;
  if (finished.o != nullptr) return;
  *near.first = max;
  *near.sum = sum;
}

/// Nearer parts leave less of the stick to those behind.
__device__ void join_stick(const PartialRow& near, const AttendParams& p, const PartRows& part,
                           const FinishedRow& finished) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float near_stick = *near.first;
  float log2_stick = near_stick;
  for (int column = lane; column < p.head_dim / 4; column += 32) {
    float4 out = near.out[column];
    log2_stick = near_stick;
    for (std::uint32_t i = 0; i + 1 < p.num_parts; ++i) {
      add_scaled(out, part(i).out[column], exp2f(log2_stick));
      log2_stick += *part(i).first;
    }
    if (finished.o != nullptr) {
      finished.store(column, out, 1.0f);
    } else {
      near.out[column] = out;
    }
  }
  __syncwarp();
  if (lane != 0) return;  // this lane has a column, whatever head_dim is
  if (finished.statistic != nullptr) *finished.statistic = exp2f(log2_stick);
  if (finished.o == nullptr) *near.first = log2_stick;
}

__global__ void __launch_bounds__(32 * kWarps)
    join_parts_kernel(const __grid_constant__ AttendParams p, int rows_a_tile, bool is_stick, bool is_bf16) {
  const auto row_of_tile = static_cast<int>(blockIdx.y * kWarps + threadIdx.x / 32);
  const QueryTile tile = query_tile_of(p, p.num_whole + blockIdx.x, rows_a_tile);
  const std::int64_t row = tile.row + row_of_tile;
  if (row >= p.num_queries) return;
  const std::int64_t carried = (std::int64_t{tile.batch} * p.num_slots + tile.slot) * p.num_queries + row;
  const PartialRow near(p.out, p.first, p.sum, carried, p.head_dim);
  const PartRows parts{p, std::int64_t{blockIdx.x} * (p.num_parts - 1) * rows_a_tile + row_of_tile, rows_a_tile};
  const FinishedRow finished(p, tile, row, is_bf16);
  if (is_stick) {
    join_stick(near, p, parts, finished);
  } else {
    join_lse(near, p, parts, finished);
  }
}

}  // namespace

void join_parts(const AttendParams& params, std::int64_t rows_a_tile, bool is_stick, ElementType type,
                cudaStream_t stream) {
  const std::uint32_t num_cut = params.num_items - params.num_whole;
  if (num_cut == 0) return;
  const dim3 blocks(num_cut, static_cast<unsigned>(rows_a_tile / kWarps));
  join_parts_kernel<<<blocks, 32 * kWarps, 0, stream>>>(params, static_cast<int>(rows_a_tile), is_stick,
                                                         type == ElementType::kBfloat16);
  check(cudaGetLastError());
}

}  // namespace ringscan::cuda
