#pragma once
// A block of 256 threads, 64 query rows and 64 keys at a time: loading, scores and the product with values, in fp32.
// Thread (ty, tx) of 16 x 16 has the scores of rows 4 ty + i and keys tx + 16 j, and columns 64 g + 4 tx + c of out.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/portable_params.hpp"
#include "kernels/cuda/score_order.cuh"

namespace ringscan::cuda::portable {

inline constexpr int kTile = 64;
inline constexpr int kWeightStride = kTile + 4;

/// Floats between rows of a tile: quads of eight rows one after the other then lie in different banks.
__host__ __device__ constexpr int row_stride(int dim) {
  return ((dim + 3) / 4 * 4) | 4;
}

struct SharedLayout {
  int q_stride, kv_stride;
  __host__ __device__ SharedLayout(int head_dim, int v_dim)
      : q_stride(row_stride(head_dim)), kv_stride(row_stride(head_dim > v_dim ? head_dim : v_dim)) {}
  __host__ __device__ int floats() const { return kTile * (q_stride + kv_stride + kWeightStride); }
};

__device__ inline float load_element(const void* data, ElementType type, std::int64_t at) {
  if (type == ElementType::kFloat32) return static_cast<const float*>(data)[at];
  if (type == ElementType::kFloat16) return __half2float(static_cast<const __half*>(data)[at]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[at]);
}

__device__ inline void store_element(void* data, ElementType type, std::int64_t at, float x) {
  if (type == ElementType::kFloat32) {
    static_cast<float*>(data)[at] = x;
  } else if (type == ElementType::kFloat64) {
    static_cast<double*>(data)[at] = static_cast<double>(x);
  } else if (type == ElementType::kFloat16) {
    static_cast<__half*>(data)[at] = __float2half_rn(x);
  } else {
    static_cast<__nv_bfloat16*>(data)[at] = __float2bfloat16_rn(x);
  }
}

/// An element as it lies in memory; of 16 bits where none is float32.
template <typename Raw>
__device__ float to_float(Raw raw, ElementType type) {
  if (sizeof(Raw) == 4 && type == ElementType::kFloat32) return __uint_as_float(raw);
  const float wide = __uint_as_float(static_cast<std::uint32_t>(raw) << 16);
  return type == ElementType::kFloat16 ? __half2float(__ushort_as_half(static_cast<unsigned short>(raw))) : wide;
}

/// Rows [first, first + 64) of one head, a warp a row; zeros outside [0, count) and behind `dim`.
__device__ inline void load_tile(float* to, int stride, const RowsIn& from, int batch, int head, std::int64_t first,
                                 std::int64_t count, int dim) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int padded = (dim + 3) / 4 * 4;
  const std::int64_t base = batch * from.strides.batch + head * from.strides.head;
  for (int row = static_cast<int>(threadIdx.x / 32); row < kTile; row += kThreads / 32) {
    const std::int64_t at = base + (first + row) * from.strides.row;
    const bool exists = first + row < count;
    for (int d = lane; d < padded; d += 32) {
      to[row * stride + d] = exists && d < dim ? load_element(from.data, from.type, at + d) : 0.0f;
    }
  }
}

/// A tile of queries, the keys it may see, and what of them each of a thread's four rows sees.
struct QueryTile {
  std::int64_t row;  ///< first query
  int batch, slot;
  std::int64_t key_begin, key_end;  ///< of the run, over all rows; empty where key_end <= key_begin
  std::int64_t first_seen[4], last_seen[4];

  __device__ explicit QueryTile(const PortableParams& p) {
    const std::int64_t stream = blockIdx.x % (p.num_items / p.num_query_tiles);
    row = (p.num_query_tiles - 1 - blockIdx.x / (p.num_items / p.num_query_tiles)) * kTile;
    batch = static_cast<int>(stream / p.num_slots);
    slot = static_cast<int>(stream % p.num_slots);
    const std::int64_t last_row = min(row + kTile, p.num_queries) - 1;
    key_begin = max(std::int64_t{0}, row + p.query_minus_key - reach(p, row));
    key_end = min(p.num_keys, last_row + p.query_minus_key - p.min_delta + 1);
    for (int i = 0; i < 4; ++i) {
      const std::int64_t query = row + row_of(i);
      const bool exists = query < p.num_queries;
      first_seen[i] = exists ? max(std::int64_t{0}, query + p.query_minus_key - reach(p, query)) : 0;
      last_seen[i] = exists ? min(p.num_keys - 1, query + p.query_minus_key - p.min_delta) : -1;
    }
  }

  __device__ static int tx() { return static_cast<int>(threadIdx.x % 16); }
  __device__ static int row_of(int i) { return static_cast<int>(threadIdx.x / 16) * 4 + i; }
  __device__ static std::int64_t reach(const PortableParams& p, std::int64_t query) {
    return p.max_deltas == nullptr ? p.max_delta : min(p.max_delta, p.max_deltas[query]);
  }
  __device__ bool sees(int i, std::int64_t key) const { return key >= first_seen[i] && key <= last_seen[i]; }
  __device__ bool exists(const PortableParams& p, int i) const { return row + row_of(i) < p.num_queries; }
  /// Index of [batch, slot, row].
  __device__ std::int64_t partial_row(const PortableParams& p, int local_row) const {
    return (static_cast<std::int64_t>(batch) * p.num_slots + slot) * p.num_queries + row + local_row;
  }
};

/// x = scale log2(e) <q, k>, the same bits wherever it is called.
__device__ inline void compute_scores(float (&x)[4][4], const float* q, int q_stride, const float* k, int k_stride,
                                      int head_dim, float scale_log2) {
  const float* q_rows = q + QueryTile::row_of(0) * q_stride;
  const float* k_rows = k + QueryTile::tx() * k_stride;
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) x[i][j] = 0.0f;
  }
#pragma unroll 2
  for (int d = 0; d < head_dim; d += 4) {
    float4 a[4], b[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = *reinterpret_cast<const float4*>(q_rows + i * q_stride + d);
#pragma unroll
    for (int j = 0; j < 4; ++j) b[j] = *reinterpret_cast<const float4*>(k_rows + 16 * j * k_stride + d);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        x[i][j] = fmaf(a[i].x, b[j].x, x[i][j]);
        x[i][j] = fmaf(a[i].y, b[j].y, x[i][j]);
        x[i][j] = fmaf(a[i].z, b[j].z, x[i][j]);
        x[i][j] = fmaf(a[i].w, b[j].w, x[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) x[i][j] = __fmul_rn(x[i][j], scale_log2);
  }
}

/// out = out * rescale + weights V: the tile is summed by itself first, so that rounding does not add up key by key.
template <int kGroups>
__device__ void add_values(float (&out)[kGroups][4][4], const float (&rescale)[4], const float* weights, const float* v,
                           int v_stride, int v_dim) {
  const float* weight_rows = weights + QueryTile::row_of(0) * kWeightStride;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int column = 64 * g + 4 * QueryTile::tx();
    if (column >= v_dim) break;
    float sum[4][4] = {};
    for (int key = 0; key < kTile; key += 4) {
      float4 w[4], b[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) w[i] = *reinterpret_cast<const float4*>(weight_rows + i * kWeightStride + key);
#pragma unroll
      for (int j = 0; j < 4; ++j) b[j] = *reinterpret_cast<const float4*>(v + (key + j) * v_stride + column);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float four[4] = {w[i].x, w[i].y, w[i].z, w[i].w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sum[i][0] = fmaf(four[j], b[j].x, sum[i][0]);
          sum[i][1] = fmaf(four[j], b[j].y, sum[i][1]);
          sum[i][2] = fmaf(four[j], b[j].z, sum[i][2]);
          sum[i][3] = fmaf(four[j], b[j].w, sum[i][3]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int c = 0; c < 4; ++c) out[g][i][c] = fmaf(out[g][i][c], rescale[i], sum[i][c]);
    }
  }
}

/// Over the 16 lanes that share a row.
template <typename T, typename Operation>
__device__ T reduce_row(T x, Operation&& operation) {
#pragma unroll
  for (int distance = 1; distance < 16; distance *= 2) x = operation(x, __shfl_xor_sync(0xFFFFFFFFu, x, distance));
  return x;
}

}  // namespace ringscan::cuda::portable
