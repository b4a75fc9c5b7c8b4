#pragma once
// The portable attend kernel: a block takes 64 query rows of one head and walks their keys near first.

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/portable_weights.cuh"

namespace ringscan::cuda::portable {

/// f(column, out) over the thread's part of its row i.
template <int kGroups, typename F>
__device__ void for_each_column(float (&out)[kGroups][4][4], int i, int v_dim, F&& f) {
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int column = 64 * g + 4 * QueryTile::tx() + c;
      if (column < v_dim) f(column, out[g][i][c]);
    }
  }
}

template <int kGroups>
__device__ void begin_out(float (&out)[kGroups][4][4], const PortableParams& p, const QueryTile& tile) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool carried = !p.starts && tile.exists(p, i);
    const float* from = p.out + tile.partial_row(p, QueryTile::row_of(i)) * p.v_dim;
    for_each_column(out, i, p.v_dim, [&](int column, float& x) { x = carried ? from[column] : 0.0f; });
  }
}

template <int kGroups>
__device__ void end_out(float (&out)[kGroups][4][4], const PortableParams& p, const QueryTile& tile) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (!tile.exists(p, i)) continue;
    float* to = p.out + tile.partial_row(p, QueryTile::row_of(i)) * p.v_dim;
    for_each_column(out, i, p.v_dim, [&](int column, float& x) { to[column] = x; });
  }
}

/// x = -inf where a row does not see the key.
__device__ inline void mask(float (&x)[4][4], const QueryTile& tile, std::int64_t first_key) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (!tile.sees(i, first_key + QueryTile::tx() + 16 * j)) x[i][j] = -INFINITY;
    }
  }
}

__device__ inline void store_weights(float* weights, const float (&x)[4][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) weights[QueryTile::row_of(i) * kWeightStride + QueryTile::tx() + 16 * j] = x[i][j];
  }
}

template <typename Weights, int kGroups>
__global__ void __launch_bounds__(kThreads) attend_kernel(const __grid_constant__ PortableParams p) {
  extern __shared__ float4 raw[];
  const SharedLayout layout(p.head_dim, p.v_dim);
  float* q = reinterpret_cast<float*>(raw);
  float* kv = q + kTile * layout.q_stride;
  float* shared_weights = kv + kTile * layout.kv_stride;
  const QueryTile tile(p);
  const int kv_head = p.kv_head[tile.slot];
  Weights weights;
  weights.begin(p, tile);
  float out[kGroups][4][4] = {};
  begin_out(out, p, tile);
  load_tile(q, layout.q_stride, p.q, tile.batch, p.q_head[tile.slot], tile.row, p.num_queries, p.head_dim);
  std::uint32_t num_tiles = 0;
  for (std::int64_t first = (tile.key_end - 1) / kTile * kTile; first + kTile > tile.key_begin && tile.key_end > 0 &&
                                                                tile.key_end > tile.key_begin;
       first -= kTile, ++num_tiles) {
    __syncthreads();
    load_tile(kv, layout.kv_stride, p.k, tile.batch, kv_head, first, p.num_keys, p.head_dim);
    __syncthreads();
    float x[4][4];
    float rescale[4];
    compute_scores(x, q, layout.q_stride, kv, layout.kv_stride, p.head_dim, p.scale_log2);
    mask(x, tile, first);
    weights.weigh(x, first, rescale);
    if (p.v_dim == 0) continue;
    store_weights(shared_weights, x);
    __syncthreads();
    load_tile(kv, layout.kv_stride, p.v, tile.batch, kv_head, first, p.num_keys, p.v_dim);
    __syncthreads();
    add_values(out, rescale, shared_weights, kv, layout.kv_stride, p.v_dim);
  }
  weights.end(p, tile);
  end_out(out, p, tile);
  if (threadIdx.x == 0 && p.tiles_computed != nullptr) atomicAdd(p.tiles_computed, num_tiles);
}

/// One block a work item.
template <typename Kernel>
void launch(Kernel kernel, const PortableParams& params, cudaStream_t stream) {
  const int bytes = SharedLayout(params.head_dim, params.v_dim).floats() * static_cast<int>(sizeof(float));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  kernel<<<static_cast<unsigned>(params.num_items), kThreads, static_cast<std::size_t>(bytes), stream>>>(params);
  check(cudaGetLastError());
}

template <typename Weights>
void launch_attend(const PortableParams& params, cudaStream_t stream) {
  if (params.v_dim <= 128) {
    launch(attend_kernel<Weights, 2>, params, stream);
  } else {
    launch(attend_kernel<Weights, 4>, params, stream);
  }
}

}  // namespace ringscan::cuda::portable
