// Partials of the attend kernels, those of attend.hpp too, become rows of the output: read once, written once.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/portable_tile.cuh"

namespace ringscan::cuda::portable {
namespace {

constexpr double kLn2 = 0.6931471805599453;
constexpr int kGroupRows = 32;  ///< of a warp: a lane each for what is of a row, all lanes for the rows' values

/// [batch, rows, heads, ...] of what finish reads and writes.
struct FinishParams {
  const float *out, *first, *sum;
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
  std::int64_t num_rows;     ///< of a slot and batch item
  std::int64_t num_streams;  ///< slots of all batch items
  int v_dim;
  int num_slots;
  std::uint16_t q_head[kMaxSlots];
  std::uint16_t kv_head[kMaxSlots];
};

struct Place {
  std::int64_t index;  ///< among the partial's rows
  std::int64_t batch, row;
  int q_head, kv_head;
  __device__ Place(const FinishParams& p, std::int64_t stream, std::int64_t row_)
      : index(stream * p.num_rows + row_), batch(stream / p.num_slots), row(row_) {
    q_head = p.q_head[stream % p.num_slots];
    kv_head = p.kv_head[stream % p.num_slots];
  }
  __device__ std::int64_t in(const RowStrides& s, int head) const {
    return batch * s.batch + row * s.row + head * s.head;
  }
};

/// Neighbouring elements of a row, stored together where all rows permit that.
template <int kWidth>
struct Elements {
  float x[kWidth];

  /// By way of what nobody writes, so that loads need not wait for stores.
  __device__ void load(const float* from) {
    if constexpr (kWidth == 4) {
      const float4 all = __ldg(reinterpret_cast<const float4*>(from));
      x[0] = all.x, x[1] = all.y, x[2] = all.z, x[3] = all.w;
    } else {
      x[0] = __ldg(from);
    }
  }
  __device__ void store(void* to, ElementType type, std::int64_t at) const {
    if constexpr (kWidth == 1) {
      store_element(to, type, at, x[0]);
    } else if (type == ElementType::kFloat32) {
      *reinterpret_cast<float4*>(static_cast<float*>(to) + at) = {x[0], x[1], x[2], x[3]};
    } else {
      alignas(8) std::uint16_t bits[4];
      for (int i = 0; i < 4; ++i) store_element(bits, type, i, x[i]);
      *reinterpret_cast<uint2*>(static_cast<std::uint16_t*>(to) + at) = *reinterpret_cast<const uint2*>(bits);
    }
  }
};

/// factor_of(place) by one lane a row, also for what it writes of the row; then value_of(x, factor, place, d) for each
/// element. Rows of a stream lie one behind the other in the partial.
template <int kWidth, typename FactorOf, typename ValueOf>
__device__ void finish_rows(const FinishParams& p, FactorOf&& factor_of, ValueOf&& value_of) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const std::int64_t groups = (p.num_rows + kGroupRows - 1) / kGroupRows;
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x / 32;
  const int pieces = p.v_dim / kWidth;
  for (std::int64_t group = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32; group < p.num_streams * groups;
       group += step) {
    const Place first(p, group / groups, group % groups * kGroupRows);
    const int rows = static_cast<int>(min(std::int64_t{kGroupRows}, p.num_rows - first.row));
    Place own = first;
    own.row += lane;
    own.index += lane;
    const float factor = lane < rows ? factor_of(own) : 0.0f;
#pragma unroll 4
    for (int i = 0; i < pieces; ++i) {  // 32 rows are as many times 32 pieces as a row has pieces
      const int piece = 32 * i + lane;
      const int row = piece / pieces;
      const float row_factor = __shfl_sync(0xFFFFFFFFu, factor, row);
      if (row >= rows) continue;
      const int d = (piece - row * pieces) * kWidth;
      Place place = first;
      place.row += row;
      place.index += row;
      Elements<kWidth> elements;
      elements.load(p.out + place.index * p.v_dim + d);
      for (int e = 0; e < kWidth; ++e) elements.x[e] = value_of(elements.x[e], row_factor, place, d + e);
      elements.store(p.o, p.type, place.in(p.o_strides, place.q_head) + d);
    }
  }
}

template <int kWidth>
__global__ void finish_softmax_kernel(const __grid_constant__ FinishParams p) {
  const auto divisor_of = [&](const Place& place) {
    const float sum = p.sum[place.index];
    if (p.statistic == nullptr && p.kept_mass == nullptr) return sum == 0.0f ? 1.0f : sum;
    const double max = static_cast<double>(p.first[place.index]);
    if (p.statistic != nullptr) {
      p.statistic[place.in(p.statistic_strides, place.q_head)] =
          sum == 0.0f ? -INFINITY : static_cast<float>(max * kLn2 + log(static_cast<double>(sum)));
    }
    if (p.kept_mass != nullptr) {
      const double share = exp2(max - static_cast<double>(p.all_first[place.index])) * static_cast<double>(sum) /
                           static_cast<double>(p.all_sum[place.index]);
      p.kept_mass[place.in(p.kept_mass_strides, place.q_head)] = static_cast<float>(share > 1.0 ? 1.0 : share);
    }
    return sum == 0.0f ? 1.0f : sum;
  };
  finish_rows<kWidth>(p, divisor_of, [](float x, float divisor, const Place&, int) { return x / divisor; });
}

template <int kWidth>
__global__ void finish_stick_kernel(const __grid_constant__ FinishParams p) {
  const auto remainder_of = [&](const Place& place) {
    const float remainder = exp2f(p.first[place.index]);
    if (p.statistic != nullptr) p.statistic[place.in(p.statistic_strides, place.q_head)] = remainder;
    return remainder;
  };
  finish_rows<kWidth>(p, remainder_of, [&](float x, float remainder, const Place& place, int d) {
    if (p.policy == RemainderPolicy::kValue) {
      return fmaf(remainder, load_element(p.own.data, p.own.type, place.in(p.own.strides, place.kv_head) + d), x);
    }
    if (p.policy == RemainderPolicy::kVector) {
      return fmaf(remainder, load_element(p.vector.data, p.vector.type, place.q_head * p.vector.strides.head + d), x);
    }
    return x;
  });
}

FinishParams finish_params(const FinishTask& task, const DevicePartial& block) {
  if (task.slots.size() > static_cast<std::size_t>(kMaxSlots)) throw failure("CUDA finish: wanted at most 256 heads");
  FinishParams p{};
  p.out = block.out;
  p.first = block.first;
  p.sum = block.sum;
  p.o = task.o.data;
  p.type = task.o.type;
  p.o_strides = row_strides(task.o);
  p.statistic = task.statistic.data;
  p.statistic_strides = row_strides(task.statistic);
  p.kept_mass = task.kept_mass.data;
  p.kept_mass_strides = row_strides(task.kept_mass);
  p.own = rows_in(task.v_own);
  p.vector = rows_in(task.remainder_value);
  p.num_rows = block.shape.rows;
  p.num_streams = block.shape.batch * block.shape.slots;
  p.v_dim = static_cast<int>(block.shape.v_dim);
  p.num_slots = static_cast<int>(task.slots.size());
  for (std::size_t i = 0; i < task.slots.size(); ++i) {
    p.q_head[i] = static_cast<std::uint16_t>(task.slots[i].q_head);
    p.kv_head[i] = static_cast<std::uint16_t>(task.slots[i].kv_head);
  }
  return p;
}

/// Four elements of any row may be stored at once.
bool is_wide(const FinishParams& p) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(p.o) % (4 * size_of(p.type)) == 0;
  return p.type != ElementType::kFloat64 && aligned && p.v_dim % 4 == 0 && p.o_strides.batch % 4 == 0 &&
         p.o_strides.row % 4 == 0 && p.o_strides.head % 4 == 0;
}

using FinishKernel = void (*)(FinishParams);

void launch_finish(FinishKernel wide, FinishKernel narrow, const FinishParams& p, cudaStream_t stream) {
  constexpr std::int64_t kWarps = 8, kMostBlocks = 16384;
  const std::int64_t groups = p.num_streams * ceil_div(p.num_rows, std::int64_t{kGroupRows});
  if (groups == 0) return;
  const auto blocks = static_cast<unsigned>(std::min(kMostBlocks, ceil_div(groups, kWarps)));
  (is_wide(p) ? wide : narrow)<<<blocks, 32 * kWarps, 0, stream>>>(p);
  check(cudaGetLastError());
}

}  // namespace

void finish_softmax(const FinishTask& task, const DevicePartial& block, const DevicePartial* all,
                    cudaStream_t stream) {
  FinishParams p = finish_params(task, block);
  if (p.kept_mass != nullptr && all == nullptr) throw failure("CUDA finish: kept_mass needs the weights of all keys");
  if (all != nullptr) {
    p.all_first = all->first;
    p.all_sum = all->sum;
  }
  launch_finish(finish_softmax_kernel<4>, finish_softmax_kernel<1>, p, stream);
}

void finish_stick_breaking(const FinishTask& task, const StickBreakingParams& params, const DevicePartial& block,
                           cudaStream_t stream) {
  FinishParams p = finish_params(task, block);
  p.policy = params.remainder;
  launch_finish(finish_stick_kernel<4>, finish_stick_kernel<1>, p, stream);
}

}  // namespace ringscan::cuda::portable
