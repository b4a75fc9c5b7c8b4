// Stick-breaking: a tile's scores go through shared memory, where four lanes walk a row near first, 16 keys each.
#include "kernels/cuda/portable_attend.cuh"

namespace ringscan::cuda::portable {
namespace {

constexpr float kLog2E = 1.442695040888963f;

/// log2(1 + 2^-|x|)
__device__ float log2_rest(float x) {
  return log1pf(exp2f(-fabsf(x))) * kLog2E;
}

/// Row t / 4 of the tile, keys 16 (t % 4) .. + 15.
class StickRow {
 public:
  __device__ StickRow(const PortableParams& p, const QueryTile& tile)
      : row_(static_cast<int>(threadIdx.x / 4)), exists_(tile.row + row_ < p.num_queries) {
    // Nothing is left to do in a row that does not exist.
    log2_stick_ = !exists_ ? -INFINITY : p.starts ? 0.0f : p.first[tile.partial_row(p, row_)];
  }
  __device__ void end(const PortableParams& p, const QueryTile& tile) const {
    if (exists_ && threadIdx.x % 4 == 0) p.first[tile.partial_row(p, row_)] = log2_stick_;
  }
  __device__ bool exhausted(float log2_epsilon) const { return log2_stick_ < log2_epsilon; }

  /// Scores, -inf where not seen, become weights: log2 A_j = -log2(1 + 2^-x_j) - sum over nearer l of log2(1 + 2^x_l).
  __device__ void weigh(float* weights) {
    float* x = weights + row_ * kWeightStride + 16 * (threadIdx.x % 4);
    float taken = 0.0f;  // log2 of what this lane's keys leave, negated
    for (int key = 15; key >= 0; --key) taken += fmaxf(x[key], 0.0f) + log2_rest(x[key]);
    const float total = all_lanes(taken);
    const float nearer = nearer_lanes(taken);  // by all lanes, those without a row too
    float log2_left = exists_ ? log2_stick_ - nearer : 0.0f;
    for (int key = 15; key >= 0; --key) {
      const float rest = log2_rest(x[key]);
      const float score = x[key];
      x[key] = exp2f(log2_left - (fmaxf(-score, 0.0f) + rest));
      log2_left -= fmaxf(score, 0.0f) + rest;
    }
    log2_stick_ -= total;
  }

 private:
  __device__ static float all_lanes(float x) {
    x += __shfl_xor_sync(0xFFFFFFFFu, x, 1);
    return x + __shfl_xor_sync(0xFFFFFFFFu, x, 2);
  }
  /// The sum over the lanes of the quad behind this one, whose keys are nearer.
  __device__ static float nearer_lanes(float x) {
    float sum = 0.0f;
#pragma unroll
    for (int distance = 1; distance < 4; ++distance) {
      const float other = __shfl_down_sync(0xFFFFFFFFu, x, static_cast<unsigned>(distance), 4);
      if (static_cast<int>(threadIdx.x % 4) + distance < 4) sum += other;
    }
    return sum;
  }

  int row_;
  bool exists_;
  float log2_stick_;
};

template <int kGroups>
__global__ void __launch_bounds__(kThreads) stick_kernel(const __grid_constant__ PortableParams p) {
  extern __shared__ float4 raw[];
  const SharedLayout layout(p.head_dim, p.v_dim);
  float* q = reinterpret_cast<float*>(raw);
  float* kv = q + kTile * layout.q_stride;
  float* weights = kv + kTile * layout.kv_stride;
  const QueryTile tile(p);
  const int kv_head = p.kv_head[tile.slot];
  constexpr float kKeep[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  StickRow row(p, tile);
  float out[kGroups][4][4] = {};
  begin_out(out, p, tile);
  load_tile(q, layout.q_stride, p.q, tile.batch, p.q_head[tile.slot], tile.row, p.num_queries, p.head_dim);
  std::uint32_t num_tiles = 0;
  for (std::int64_t first = (tile.key_end - 1) / kTile * kTile; first + kTile > tile.key_begin && tile.key_end > 0 &&
                                                                tile.key_end > tile.key_begin;
       first -= kTile, ++num_tiles) {
    if (__syncthreads_and(row.exhausted(p.log2_epsilon))) break;
    load_tile(kv, layout.kv_stride, p.k, tile.batch, kv_head, first, p.num_keys, p.head_dim);
    __syncthreads();
    float x[4][4];
    compute_scores(x, q, layout.q_stride, kv, layout.kv_stride, p.head_dim, p.scale_log2);
    mask(x, tile, first);
    store_weights(weights, x);
    __syncthreads();
    row.weigh(weights);
    load_tile(kv, layout.kv_stride, p.v, tile.batch, kv_head, first, p.num_keys, p.v_dim);
    __syncthreads();
    add_values(out, kKeep, weights, kv, layout.kv_stride, p.v_dim);
  }
  row.end(p, tile);
  end_out(out, p, tile);
  if (threadIdx.x == 0 && p.tiles_computed != nullptr) atomicAdd(p.tiles_computed, num_tiles);
}

}  // namespace

void launch_stick_breaking(const PortableParams& params, cudaStream_t stream) {
  if (params.v_dim <= 128) {
    launch(stick_kernel<2>, params, stream);
  } else {
    launch(stick_kernel<4>, params, stream);
  }
}

}  // namespace ringscan::cuda::portable
