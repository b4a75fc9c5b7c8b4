// Linear attention in plain fp32: a block has a segment of one head and 64 columns of v, and walks chunks of 32 tokens.
//   P_ij = <q_i, k_j> e^(c_i - c_j), j <= i;  o_i = scale (P V + e^(c_i) Q S);  S = e^(c_end) S + sum_j e^(c_end - c_j) k_j v_j
// c: the sum of the log decays since before the chunk. S is summed with compensation: a run has tens of thousands of chunks.
#include "kernels/cuda/check.hpp"
#include "kernels/cuda/linear_params.hpp"
#include "kernels/cuda/portable_tile.cuh"

namespace ringscan::cuda {
namespace {

constexpr int kChunk = 32;
constexpr int kColumns = 64;
constexpr int kThreads = 256;
constexpr int kValueStride = kColumns + 4;
constexpr int kPairStride = kChunk + 4;

struct Layout {
  int stride;  ///< of rows of q and k; a multiple of 4
  int dim;     ///< head_dim, filled up to 64s for the state's rows
  __host__ __device__ explicit Layout(int head_dim)
      : stride(portable::row_stride((head_dim + 63) / 64 * 64)), dim((head_dim + 63) / 64 * 64) {}
  __host__ __device__ int floats() const {
    return 2 * kChunk * stride + kChunk * kValueStride + kChunk * kPairStride + dim * kValueStride + dim + 4 * kChunk;
  }
};

/// `kBlocks` 64s of head_dim.
template <int kBlocks>
class LinearBlock {
 public:
  __device__ LinearBlock(const LinearDeviceParams& p, float* shared) : p_(p), layout_(p.head_dim) {
    q_ = shared;
    k_ = q_ + kChunk * layout_.stride;
    v_ = k_ + kChunk * layout_.stride;
    pairs_ = v_ + kChunk * kValueStride;
    s_ = pairs_ + kChunk * kPairStride;
    n_ = s_ + layout_.dim * kValueStride;
    decay_ = n_ + layout_.dim;       // c
    to_end_ = decay_ + kChunk;       // e^(c_end - c)
    decay_low_ = to_end_ + kChunk;   // what rounding took from c
    normalizer_ = decay_low_ + kChunk;  // of a row: 1 / (scale <q, n> + 1e-10)
    std::int64_t index = blockIdx.x;
    const std::int64_t column_blocks = (p.v_dim + kColumns - 1) / kColumns;
    first_column_ = static_cast<int>(index % column_blocks) * kColumns;
    index /= column_blocks;
    segment_ = index % p.segments.count;
    stream_ = index / p.segments.count;
    slot_ = static_cast<int>(stream_ % p.num_slots);
    batch_ = stream_ / p.num_slots;
  }

  template <bool kOutput>
  __device__ void run() {
    begin<kOutput>();
    const std::int64_t first = segment_ * p_.segments.tokens;
    const std::int64_t end = min(p_.tokens, first + p_.segments.tokens);
    float total = 0.0f;
    for (std::int64_t token = first; token < end; token += kChunk) {
      const int count = static_cast<int>(min(end - token, std::int64_t{kChunk}));
      load_chunk<kOutput>(token, count);
      __syncthreads();
      if (kOutput) {
        weigh_pairs();
        __syncthreads();
        write_rows(token, count);
      }
      update_state();
      total += decay_[kChunk - 1];
    }
    if (!kOutput) end_summary(total);
  }

 private:
  __device__ int tx() const { return static_cast<int>(threadIdx.x % 16); }
  __device__ int ty() const { return static_cast<int>(threadIdx.x / 16); }
  __device__ std::int64_t summary() const { return stream_ * p_.segments.count + segment_; }

  template <bool kOutput>
  __device__ void begin() {
    const std::int64_t at = summary() * p_.head_dim;
    for (int i = static_cast<int>(threadIdx.x); i < layout_.dim * kColumns; i += kThreads) {
      const int row = i / kColumns;
      const int column = first_column_ + i % kColumns;
      const bool carried = kOutput && row < p_.head_dim && column < p_.v_dim;
      s_[row * kValueStride + i % kColumns] = carried ? p_.segments.s_begin[(at + row) * p_.v_dim + column] : 0.0f;
    }
    for (int row = static_cast<int>(threadIdx.x); row < layout_.dim; row += kThreads) {
      n_[row] = kOutput && p_.normalizes && row < p_.head_dim ? p_.segments.n_begin[at + row] : 0.0f;
    }
  }

  /// Rows [token, token + count) of one head, from `column` on; zeros elsewhere.
  __device__ void load_rows(float* to, int stride, int width, const RowsIn& from, int head, std::int64_t token,
                            int count, int column, int dim, bool maps) const {
    const std::int64_t base = batch_ * from.strides.batch + head * from.strides.head + column;
    for (int row = static_cast<int>(threadIdx.x / 32); row < kChunk; row += kThreads / 32) {
      for (int d = static_cast<int>(threadIdx.x % 32); d < width; d += 32) {
        float x = 0.0f;
        if (row < count && column + d < dim) {
          x = portable::load_element(from.data, from.type, base + (token + row) * from.strides.row + d);
          if (maps) x = x > 0.0f ? x + 1.0f : expf(x);
        }
        to[row * stride + d] = x;
      }
    }
  }

  template <bool kOutput>
  __device__ void load_chunk(std::int64_t token, int count) {
    __syncthreads();  // the last chunk is through
    const int kv_head = p_.kv_head[slot_];
    if (kOutput) load_rows(q_, layout_.stride, layout_.dim, p_.q, p_.q_head[slot_], token, count, 0, p_.head_dim, p_.elu1);
    load_rows(k_, layout_.stride, layout_.dim, p_.k, kv_head, token, count, 0, p_.head_dim, p_.elu1);
    load_rows(v_, kValueStride, kColumns, p_.v, kv_head, token, count, first_column_, p_.v_dim, false);
    if (threadIdx.x < 32) {
      const int row = static_cast<int>(threadIdx.x);
      double c = 0.0;  // differences of sums count, so that the sums need more digits than they have
      if (row < count && p_.log_decay.data != nullptr) {
        const RowsIn& from = p_.log_decay;
        c = static_cast<double>(least_log_decay(portable::load_element(
            from.data, from.type,
            batch_ * from.strides.batch + (token + row) * from.strides.row + p_.decay_column[slot_] * from.strides.head)));
      } else if (row < count) {
        c = static_cast<double>(least_log_decay(p_.head_log_decay[slot_]));
      }
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const double other = __shfl_up_sync(0xFFFFFFFFu, c, static_cast<unsigned>(distance));
        if (row >= distance) c += other;
      }
      const double end = __shfl_sync(0xFFFFFFFFu, c, 31);
      decay_[row] = static_cast<float>(c);
      decay_low_[row] = static_cast<float>(c - static_cast<double>(decay_[row]));
      to_end_[row] = row < count ? expf(static_cast<float>(end - c)) : 0.0f;
    }
  }

  /// P, two rows and two keys a thread.
  __device__ void weigh_pairs() {
    float x[2][2] = {};
    for (int d = 0; d < p_.head_dim; d += 4) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float4 a = *reinterpret_cast<const float4*>(q_ + (2 * ty() + i) * layout_.stride + d);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const float4 b = *reinterpret_cast<const float4*>(k_ + (tx() + 16 * j) * layout_.stride + d);
          x[i][j] = fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, x[i][j]))));
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = 2 * ty() + i;
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int key = tx() + 16 * j;
        const float weight = key <= row ? x[i][j] * expf((decay_[row] - decay_[key]) + (decay_low_[row] - decay_low_[key])) : 0.0f;
        pairs_[row * kPairStride + key] = weight;
        sum += weight;
      }
      if (!p_.normalizes) continue;
      float own = 0.0f;  // <q, n> before the chunk
      for (int d = tx(); d < p_.head_dim; d += 16) own = fmaf(q_[row * layout_.stride + d], n_[d], own);
      sum = portable::reduce_row(fmaf(own, expf(decay_[row]), sum), [](float a, float b) { return a + b; });
      if (tx() == 0) normalizer_[row] = 1.0f / fmaf(p_.scale, sum, 1e-10f);
    }
  }

  /// Two rows and four columns a thread.
  __device__ void write_rows(std::int64_t token, int count) {
    float out[2][4] = {};
    add_product(out, q_, layout_.stride, s_, p_.head_dim);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float decay = expf(decay_[2 * ty() + i]);
#pragma unroll
      for (int c = 0; c < 4; ++c) out[i][c] *= decay;
    }
    add_product(out, pairs_, kPairStride, v_, kChunk);
    const std::int64_t base = batch_ * p_.o_strides.batch + p_.q_head[slot_] * p_.o_strides.head;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = 2 * ty() + i;
      if (row >= count) continue;
      const float factor = p_.scale * (p_.normalizes ? normalizer_[row] : 1.0f);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int column = first_column_ + 4 * tx() + c;
        if (column >= p_.v_dim) continue;
        portable::store_element(p_.o, p_.o_type, base + (token + row) * p_.o_strides.row + column, out[i][c] * factor);
      }
    }
  }
  /// out += a b: a's rows, b's columns of this thread. Reads a up to a multiple of 4.
  __device__ void add_product(float (&out)[2][4], const float* a, int a_stride, const float* b, int depth) const {
    for (int d = 0; d < depth; d += 4) {
      float4 rows[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) rows[i] = *reinterpret_cast<const float4*>(a + (2 * ty() + i) * a_stride + d);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float4 columns = *reinterpret_cast<const float4*>(b + (d + j) * kValueStride + 4 * tx());
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float four[4] = {rows[i].x, rows[i].y, rows[i].z, rows[i].w};
          out[i][0] = fmaf(four[j], columns.x, out[i][0]);
          out[i][1] = fmaf(four[j], columns.y, out[i][1]);
          out[i][2] = fmaf(four[j], columns.z, out[i][2]);
          out[i][3] = fmaf(four[j], columns.w, out[i][3]);
        }
      }
    }
  }

  __device__ void update_state() {
    __syncthreads();  // outputs have read the state
    const float change = expm1f(decay_[kChunk - 1]);  // S + S (e^c - 1): a factor near 1 would round alike each time
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const int first = 64 * block + 4 * ty();
      float sum[4][4] = {};
      for (int j = 0; j < kChunk; ++j) {
        const float factor = to_end_[j];
        const float4 k = *reinterpret_cast<const float4*>(k_ + j * layout_.stride + first);
        const float4 v = *reinterpret_cast<const float4*>(v_ + j * kValueStride + 4 * tx());
        const float rows[4] = {k.x * factor, k.y * factor, k.z * factor, k.w * factor};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sum[i][0] = fmaf(rows[i], v.x, sum[i][0]);
          sum[i][1] = fmaf(rows[i], v.y, sum[i][1]);
          sum[i][2] = fmaf(rows[i], v.z, sum[i][2]);
          sum[i][3] = fmaf(rows[i], v.w, sum[i][3]);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float* s = s_ + (first + i) * kValueStride + 4 * tx();
#pragma unroll
        for (int c = 0; c < 4; ++c) s[c] = add(s[c], lost_[block][i][c], change, sum[i][c]);
      }
    }
    if (!p_.normalizes) return;
    for (int row = static_cast<int>(threadIdx.x); row < layout_.dim; row += kThreads) {
      float sum = 0.0f;
      for (int j = 0; j < kChunk; ++j) sum = fmaf(k_[j * layout_.stride + row], to_end_[j], sum);
      n_[row] = add(n_[row], lost_of_n_, change, sum);
    }
  }
  /// x (1 + change) + sum; `lost`: what rounding has put into x too much (W. Kahan, Further remarks on reducing
  /// truncation errors, 1965).
  __device__ static float add(float x, float& lost, float change, float sum) {
    const float step = __fsub_rn(fmaf(x, change, sum), fmaf(lost, change, lost));
    const float next = __fadd_rn(x, step);
    lost = __fsub_rn(__fsub_rn(next, x), step);
    return next;
  }

  __device__ void end_summary(float total) {
    __syncthreads();
    const std::int64_t at = summary() * p_.head_dim;
    for (int i = static_cast<int>(threadIdx.x); i < p_.head_dim * kColumns; i += kThreads) {
      const int column = first_column_ + i % kColumns;
      if (column < p_.v_dim) {
        p_.segments.s[(at + i / kColumns) * p_.v_dim + column] = s_[i / kColumns * kValueStride + i % kColumns];
      }
    }
    if (first_column_ != 0) return;
    if (threadIdx.x == 0) p_.segments.log_decay[summary()] = total;
    if (!p_.normalizes) return;
    for (int row = static_cast<int>(threadIdx.x); row < p_.head_dim; row += kThreads) p_.segments.n[at + row] = n_[row];
  }

  const LinearDeviceParams& p_;
  Layout layout_;
  float *q_, *k_, *v_, *pairs_, *s_, *n_, *decay_, *to_end_, *decay_low_, *normalizer_;
  int first_column_, slot_;
  std::int64_t segment_, stream_, batch_;
  float lost_[kBlocks][4][4] = {};  ///< add()'s, of the elements of S and n that are this thread's
  float lost_of_n_ = 0.0f;          ///< a thread has one row at most
};

template <bool kOutput, int kBlocks>
__global__ void __launch_bounds__(kThreads) linear_kernel(const __grid_constant__ LinearDeviceParams p) {
  extern __shared__ float4 raw[];
  LinearBlock<kBlocks>(p, reinterpret_cast<float*>(raw)).template run<kOutput>();
}

template <bool kOutput>
auto kernel_of(int head_dim) {
  if (head_dim <= 64) return linear_kernel<kOutput, 1>;
  if (head_dim <= 128) return linear_kernel<kOutput, 2>;
  return head_dim <= 192 ? linear_kernel<kOutput, 3> : linear_kernel<kOutput, 4>;
}

}  // namespace

void launch_linear_portable(const LinearDeviceParams& params, bool output, cudaStream_t stream) {
  const int bytes = Layout(params.head_dim).floats() * static_cast<int>(sizeof(float));
  const std::int64_t blocks =
      params.batch * params.num_slots * params.segments.count * ((params.v_dim + kColumns - 1) / kColumns);
  const auto kernel = output ? kernel_of<true>(params.head_dim) : kernel_of<false>(params.head_dim);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  kernel<<<static_cast<unsigned>(blocks), kThreads, static_cast<std::size_t>(bytes), stream>>>(params);
  check(cudaGetLastError());
}

}  // namespace ringscan::cuda
