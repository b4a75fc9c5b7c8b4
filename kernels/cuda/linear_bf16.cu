// Linear attention of bfloat16 on the tensor cores, without a normaliser: a block has a segment of one head, at most 128
// by 128, and walks chunks of 64 tokens. The formulas are those of linear_portable.cu. The state is fp32 in registers,
// 16 rows a warp, and goes to shared memory rounded, for Q S.
#include <cuda_pipeline_primitives.h>

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/chunk_decays.cuh"
#include "kernels/cuda/linear_params.hpp"
#include "kernels/cuda/mma_bf16.cuh"
#include "kernels/cuda/portable_tile.cuh"

namespace ringscan::cuda {
namespace {

using Bf16 = __nv_bfloat16;
using Sums = MmaSums;

constexpr int kChunk = 64;
constexpr int kDim = 128;
constexpr int kThreads = 256;
constexpr int kStride = kDim + 8;  ///< of rows in shared memory: no two of eight in the same banks
constexpr int kPairStride = kChunk + 8;

struct Shared {
  alignas(32) Bf16 k[kChunk][kStride];
  alignas(32) Bf16 v[kChunk][kStride];
  alignas(32) Bf16 decayed[kChunk][kStride];  ///< v times the decay from its token to the chunk's end
  alignas(32) Bf16 q[kChunk][kStride];        ///< then rows of o
  alignas(32) Bf16 pairs[kChunk][kPairStride];
  alignas(32) Bf16 s[kDim][kStride];
  float decay[kChunk];   ///< c, the sum of the log decays since before the chunk
  float from_begin[kChunk];  ///< e^c
  float to_end[kChunk];      ///< e^(c_end - c); 0 behind the run
};

template <bool kOutput>
class ChunkWalk {
 public:
  __device__ ChunkWalk(const LinearDeviceParams& p, Shared& shared) : p_(p), shared_(shared) {
    segment_ = blockIdx.x % p.segments.count;
    stream_ = blockIdx.x / p.segments.count;
    slot_ = static_cast<int>(stream_ % p.num_slots);
    batch_ = stream_ / p.num_slots;
  }

  __device__ void run() {
    const std::int64_t begin = segment_ * p_.segments.tokens;
    const std::int64_t end = min(p_.tokens, begin + p_.segments.tokens);
    begin_state();
    fetch_keys(begin, end);
    float total = 0.0f;
    for (std::int64_t token = begin; token < end; token += kChunk) {
      if (kOutput) fetch(shared_.q, p_.q, p_.q_head[slot_], token, end, p_.head_dim);
      __pipeline_commit();
      make_decays(token, end);
      __pipeline_wait_prior(0);
      __syncthreads();
      prepare(static_cast<int>(min(end - token, std::int64_t{kChunk})));
      __syncthreads();
      Sums out[4];
      if (kOutput) {
        weigh_pairs();
        take_state(out);
        __syncthreads();
        take_pairs(out);
      }
      update_state();
      total += shared_.decay[kChunk - 1];
      __syncthreads();
      fetch_keys(token + kChunk, end);
      if (kOutput) {
        share_state();
        stage_rows(out);
        __syncthreads();
        store_rows(token, end);
        __syncthreads();
      }
    }
    if (!kOutput) end_summary(total);
  }

 private:
  __device__ static int warp() { return static_cast<int>(threadIdx.x / 32); }
  __device__ static int row_of(int i) { return Sums::row_of(i); }
  __device__ static int column_of(int i) { return Sums::column_of(i); }
  __device__ std::int64_t summary() const { return stream_ * p_.segments.count + segment_; }

  __device__ void begin_state() {
#pragma unroll
    for (int block = 0; block < kDim / 16; ++block) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int row = 16 * warp() + row_of(i);
        const int column = 16 * block + column_of(i);
        const bool carried = kOutput && row < p_.head_dim && column < p_.v_dim;
        state_[block].x[i] =
            carried ? p_.segments.s_begin[(summary() * p_.head_dim + row) * p_.v_dim + column] : 0.0f;
      }
    }
    if (kOutput) share_state();
  }
  __device__ static void store_pair(Bf16* to, float a, float b) {
    *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(a, b);
  }
  __device__ void share_state() {
#pragma unroll
    for (int block = 0; block < kDim / 16; ++block) {
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        store_pair(&shared_.s[16 * warp() + row_of(i)][16 * block + column_of(i)], state_[block].x[i],
                   state_[block].x[i + 1]);
      }
    }
  }

  /// Queues rows of 16-byte pieces; zeros outside the segment and behind `dim`.
  __device__ void fetch(Bf16 (&to)[kChunk][kStride], const RowsIn& from, int head, std::int64_t token, std::int64_t end,
                        int dim) const {
    const auto* base = static_cast<const Bf16*>(from.data) + batch_ * from.strides.batch + head * from.strides.head;
#pragma unroll
    for (int i = 0; i < kChunk * kDim / 8 / kThreads; ++i) {
      const int piece = static_cast<int>(threadIdx.x) + i * kThreads;
      const int row = piece / (kDim / 8);
      const int column = piece % (kDim / 8) * 8;
      const bool exists = token + row < end && column < dim;
      const Bf16* source = exists ? base + (token + row) * from.strides.row + column : base;
      __pipeline_memcpy_async(&to[row][column], source, 16, exists ? 0 : 16);
    }
  }
  __device__ void fetch_keys(std::int64_t token, std::int64_t end) const {
    if (token >= end) return;
    fetch(shared_.k, p_.k, p_.kv_head[slot_], token, end, p_.head_dim);
    fetch(shared_.v, p_.v, p_.kv_head[slot_], token, end, p_.v_dim);
  }

  /// By the first warp, two tokens a lane.
  __device__ void make_decays(std::int64_t token, std::int64_t end) {
    if (warp() != 0) return;
    const int lane = static_cast<int>(threadIdx.x);
    float g[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const std::int64_t at = token + 2 * lane + i;
      g[i] = at >= end                      ? 0.0f
             : p_.log_decay.data == nullptr ? p_.head_log_decay[slot_]
                                            : portable::load_element(p_.log_decay.data, p_.log_decay.type,
                                                                     batch_ * p_.log_decay.strides.batch +
                                                                         at * p_.log_decay.strides.row +
                                                                         p_.decay_column[slot_] *
                                                                             p_.log_decay.strides.head);
    }
    const ChunkSums sums = sum_log_decays(g, lane);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      shared_.decay[2 * lane + i] = sums.to[i];
      shared_.from_begin[2 * lane + i] = __expf(sums.to[i]);
      shared_.to_end[2 * lane + i] = token + 2 * lane + i < end ? __expf(sums.all - sums.to[i]) : 0.0f;
    }
  }

  /// Decayed values, and the feature map on q and k.
  __device__ void prepare(int count) {
#pragma unroll
    for (int i = 0; i < kChunk * kDim / 2 / kThreads; ++i) {
      const int pair = static_cast<int>(threadIdx.x) + i * kThreads;
      const int row = pair / (kDim / 2);
      const int column = pair % (kDim / 2) * 2;
      const float2 v = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&shared_.v[row][column]));
      const float factor = shared_.to_end[row];
      *reinterpret_cast<__nv_bfloat162*>(&shared_.decayed[row][column]) =
          __floats2bfloat162_rn(v.x * factor, v.y * factor);
      if (!p_.elu1 || row >= count || column >= p_.head_dim) continue;
      map(&shared_.k[row][column]);
      if (kOutput) map(&shared_.q[row][column]);
    }
  }
  __device__ static void map(Bf16* at) {
    float2 x = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(at));
    x.x = x.x > 0.0f ? x.x + 1.0f : __expf(x.x);
    x.y = x.y > 0.0f ? x.y + 1.0f : __expf(x.y);
    *reinterpret_cast<__nv_bfloat162*>(at) = __floats2bfloat162_rn(x.x, x.y);
  }

  /// P: two blocks of 16 x 16 a warp, those over the diagonal left out.
  __device__ void weigh_pairs() {
    const int rows = warp() % 4;
    const int first = warp() / 4 * 2;
    if (first > rows) return;
    Sums sums[2];
    sums[0].clear();
    sums[1].clear();
#pragma unroll
    for (int d = 0; d < kDim; d += 16) {
      const MmaOperand q = load_a<kStride>(&shared_.q[16 * rows][d]);
#pragma unroll
      for (int block = 0; block < 2; ++block) {
        const MmaOperand k = load_b_of_columns<kStride>(&shared_.k[16 * (first + block)][d]);
        multiply_add(sums[block], q, k);
      }
    }
#pragma unroll
    for (int block = 0; block < 2; ++block) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int row = 16 * rows + row_of(i);
        const int key = 16 * (first + block) + column_of(i);
        const float weight = key <= row ? sums[block].x[i] * __expf(shared_.decay[row] - shared_.decay[key]) : 0.0f;
        shared_.pairs[row][key] = __float2bfloat16_rn(weight);
      }
    }
  }

  /// out = e^c Q S: 16 rows and 64 columns a warp.
  __device__ void take_state(Sums (&out)[4]) {
    const int rows = warp() % 4;
    const int first = warp() / 4 * 64;
#pragma unroll
    for (int block = 0; block < 4; ++block) out[block].clear();
#pragma unroll
    for (int d = 0; d < kDim; d += 16) {
      const MmaOperand q = load_a<kStride>(&shared_.q[16 * rows][d]);
#pragma unroll
      for (int block = 0; block < 4; ++block) {
        const MmaOperand s = load_b<kStride>(&shared_.s[d][first + 16 * block]);
        multiply_add(out[block], q, s);
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float factor = shared_.from_begin[16 * rows + row_of(i)];
#pragma unroll
      for (int block = 0; block < 4; ++block) out[block].x[i] *= factor;
    }
  }
  /// out += P V.
  __device__ void take_pairs(Sums (&out)[4]) {
    const int rows = warp() % 4;
    const int first = warp() / 4 * 64;
    for (int key = 0; key <= 16 * rows; key += 16) {
      const MmaOperand pairs = load_a<kPairStride>(&shared_.pairs[16 * rows][key]);
#pragma unroll
      for (int block = 0; block < 4; ++block) {
        const MmaOperand v = load_b<kStride>(&shared_.v[key][first + 16 * block]);
        multiply_add(out[block], pairs, v);
      }
    }
  }

  __device__ void update_state() {
    const float change = expm1f(shared_.decay[kChunk - 1]);  // as in linear_portable.cu
#pragma unroll
    for (int block = 0; block < kDim / 16; ++block) {
#pragma unroll
      for (int i = 0; i < 8; ++i) state_[block].x[i] = fmaf(state_[block].x[i], change, state_[block].x[i]);
    }
#pragma unroll
    for (int token = 0; token < kChunk; token += 16) {
      const MmaOperand k = load_a_of_columns<kStride>(&shared_.k[token][16 * warp()]);
#pragma unroll
      for (int block = 0; block < kDim / 16; ++block) {
        const MmaOperand v = load_b<kStride>(&shared_.decayed[token][16 * block]);
        multiply_add(state_[block], k, v);
      }
    }
  }

  /// Rounded rows of o into q's place, and out in 16-byte pieces.
  __device__ void stage_rows(const Sums (&out)[4]) {
#pragma unroll
    for (int block = 0; block < 4; ++block) {
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        store_pair(&shared_.q[16 * (warp() % 4) + row_of(i)][warp() / 4 * 64 + 16 * block + column_of(i)],
                   out[block].x[i] * p_.scale, out[block].x[i + 1] * p_.scale);
      }
    }
  }
  __device__ void store_rows(std::int64_t token, std::int64_t end) const {
    auto* base = static_cast<Bf16*>(p_.o) + batch_ * p_.o_strides.batch + p_.q_head[slot_] * p_.o_strides.head;
#pragma unroll
    for (int i = 0; i < kChunk * kDim / 8 / kThreads; ++i) {
      const int piece = static_cast<int>(threadIdx.x) + i * kThreads;
      const int row = piece / (kDim / 8);
      const int column = piece % (kDim / 8) * 8;
      if (token + row >= end || column >= p_.v_dim) continue;
      *reinterpret_cast<uint4*>(base + (token + row) * p_.o_strides.row + column) =
          *reinterpret_cast<const uint4*>(&shared_.q[row][column]);
    }
  }

  __device__ void end_summary(float total) {
    if (threadIdx.x == 0) p_.segments.log_decay[summary()] = total;
#pragma unroll
    for (int block = 0; block < kDim / 16; ++block) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int row = 16 * warp() + row_of(i);
        const int column = 16 * block + column_of(i);
        if (row >= p_.head_dim || column >= p_.v_dim) continue;
        p_.segments.s[(summary() * p_.head_dim + row) * p_.v_dim + column] = state_[block].x[i];
      }
    }
  }

  const LinearDeviceParams& p_;
  Shared& shared_;
  std::int64_t segment_, stream_, batch_;
  int slot_;
  Sums state_[kDim / 16];
};

template <bool kOutput>
__global__ void __launch_bounds__(kThreads, 2) linear_bf16_kernel(const __grid_constant__ LinearDeviceParams p) {
  extern __shared__ float4 raw[];
  ChunkWalk<kOutput>(p, *reinterpret_cast<Shared*>(raw)).run();
}

template <typename View>
bool in_pieces(const View& rows) {
  return rows.strides.batch % 8 == 0 && rows.strides.row % 8 == 0 && rows.strides.head % 8 == 0 &&
         reinterpret_cast<std::uintptr_t>(rows.data) % 16 == 0;
}

}  // namespace

bool takes_linear_bf16(const LinearDeviceParams& p, bool output) {
  const bool inputs = p.k.type == ElementType::kBfloat16 && p.v.type == ElementType::kBfloat16 && in_pieces(p.k) &&
                      in_pieces(p.v) && p.head_dim <= kDim && p.v_dim <= kDim && p.head_dim % 8 == 0 &&
                      p.v_dim % 8 == 0 && !p.normalizes;
  const RowsIn o{p.o, p.o_type, p.o_strides};
  return inputs && (!output || (p.q.type == ElementType::kBfloat16 && p.o_type == ElementType::kBfloat16 &&
                                in_pieces(p.q) && in_pieces(o)));
}

void launch_linear_bf16(const LinearDeviceParams& params, bool output, cudaStream_t stream) {
  const auto kernel = output ? linear_bf16_kernel<true> : linear_bf16_kernel<false>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(sizeof(Shared))));
  const auto blocks = static_cast<unsigned>(params.batch * params.num_slots * params.segments.count);
  kernel<<<blocks, kThreads, sizeof(Shared), stream>>>(params);
  check(cudaGetLastError());
}

}  // namespace ringscan::cuda
