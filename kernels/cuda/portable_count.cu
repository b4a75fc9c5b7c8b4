// Exact top-k's rounds of counting: scores over each row's range are counted, those in it go to their bins.
#include "kernels/cuda/portable_attend.cuh"

namespace ringscan::cuda::portable {
namespace {

/// The counting side of a thread's four rows.
struct RowCounts {
  std::int32_t low[4], high[4], shift[4], phase[4];
  std::int64_t first[4], last[4];  // positions in the run
  std::uint32_t over[4] = {};

  __device__ RowCounts(const PortableParams& p, const QueryTile& tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      phase[i] = kExact;
      low[i] = 0x7fffffff;
      high[i] = 0x7fffffff;
      if (!tile.exists(p, i)) continue;
      const SearchRow& row = p.search[tile.partial_row(p, QueryTile::row_of(i))];
      phase[i] = row.phase;
      low[i] = row.low;
      high[i] = row.high;
      shift[i] = row.shift;
      first[i] = row.first - p.first_key;
      last[i] = row.last - p.first_key;
    }
  }
  __device__ void take(const PortableParams& p, const QueryTile& tile, int i, float x, std::int64_t key) {
    if (phase[i] == kExact || !tile.sees(i, key)) return;
    const std::int32_t ordered = ordered_bits(x);
    if (ordered > high[i]) ++over[i];
    if (ordered > high[i] || ordered < low[i]) return;
    const std::int64_t row = tile.partial_row(p, QueryTile::row_of(i));
    if (phase[i] == kListed || phase[i] == kListedTies) {  // bins then
      p.bins[row * p.search_words + kPartKeys] = kUnknown;
      return;
    }
    std::int64_t offset = static_cast<std::uint32_t>(ordered) - static_cast<std::uint32_t>(low[i]);
    if (phase[i] == kTies) {
      if (key > last[i]) ++over[i];
      if (key > last[i] || key < first[i]) return;
      offset = key - first[i];
    }
    atomicAdd(p.bins + row * p.search_words + (offset >> shift[i]), 1u);
  }
  __device__ void end(const PortableParams& p, const QueryTile& tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t total = reduce_row(over[i], [](std::uint32_t a, std::uint32_t b) { return a + b; });
      if (total == 0 || QueryTile::tx() != 0 || !tile.exists(p, i)) continue;
      p.search[tile.partial_row(p, QueryTile::row_of(i))].over += total;
    }
  }
};

template <bool kAdds>
__global__ void __launch_bounds__(kThreads) count_kernel(const __grid_constant__ PortableParams p) {
  extern __shared__ float4 raw[];
  const SharedLayout layout(p.head_dim, 0);
  float* q = reinterpret_cast<float*>(raw);
  float* k = q + kTile * layout.q_stride;
  const QueryTile tile(p);
  RowCounts counts(p, tile);
  SoftmaxWeights weights;
  if (kAdds) weights.begin(p, tile);
  load_tile(q, layout.q_stride, p.q, tile.batch, p.q_head[tile.slot], tile.row, p.num_queries, p.head_dim);
  for (std::int64_t first = (tile.key_end - 1) / kTile * kTile; first + kTile > tile.key_begin && tile.key_end > 0 &&
                                                                tile.key_end > tile.key_begin;
       first -= kTile) {
    __syncthreads();
    load_tile(k, layout.kv_stride, p.k, tile.batch, p.kv_head[tile.slot], first, p.num_keys, p.head_dim);
    __syncthreads();
    float x[4][4];
    float rescale[4];
    compute_scores(x, q, layout.q_stride, k, layout.kv_stride, p.head_dim, p.scale_log2);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) counts.take(p, tile, i, x[i][j], first + QueryTile::tx() + 16 * j);
    }
    if (!kAdds) continue;
    mask(x, tile, first);
    weights.weigh(x, first, rescale);
  }
  counts.end(p, tile);
  if (kAdds) weights.end(p, tile);
}

/// Ordered scores of kSampleKeys keys or fewer, spread over the run, into the rows' bins; the rest of them INT_MIN.
__global__ void __launch_bounds__(kThreads) sample_kernel(const __grid_constant__ PortableParams p) {
  extern __shared__ float4 raw[];
  const SharedLayout layout(p.head_dim, 0);
  float* q = reinterpret_cast<float*>(raw);
  float* k = q + kTile * layout.q_stride;
  const QueryTile tile(p);
  RowsIn keys = p.k;
  const std::int64_t step = max(std::int64_t{1}, p.num_keys / kSampleKeys);
  keys.strides.row *= step;
  const std::int64_t count = min(kSampleKeys, p.num_keys);
  load_tile(q, layout.q_stride, p.q, tile.batch, p.q_head[tile.slot], tile.row, p.num_queries, p.head_dim);
  for (std::int64_t first = 0; first < kSampleKeys; first += kTile) {
    __syncthreads();
    load_tile(k, layout.kv_stride, keys, tile.batch, p.kv_head[tile.slot], first, count, p.head_dim);
    __syncthreads();
    float x[4][4];
    compute_scores(x, q, layout.q_stride, k, layout.kv_stride, p.head_dim, p.scale_log2);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!tile.exists(p, i)) continue;
      std::uint32_t* bins = p.bins + tile.partial_row(p, QueryTile::row_of(i)) * p.search_words;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const std::int64_t key = first + QueryTile::tx() + 16 * j;
        bins[key] = key < count ? static_cast<std::uint32_t>(ordered_bits(x[i][j])) : 0x80000000u;
      }
    }
  }
}

}  // namespace

void launch_count(const PortableParams& params, bool adds, cudaStream_t stream) {
  if (adds) {
    launch(count_kernel<true>, params, stream);
  } else {
    launch(count_kernel<false>, params, stream);
  }
}

void launch_sample(const PortableParams& params, cudaStream_t stream) {
  launch(sample_kernel, params, stream);
}

}  // namespace ringscan::cuda::portable
