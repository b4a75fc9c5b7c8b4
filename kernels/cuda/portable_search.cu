// Exact top-k between the rounds of counting: where each row looks first, and where it looks next.
#include <cstdint>

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/portable_params.hpp"

namespace ringscan::cuda::portable {
namespace {

constexpr std::int32_t kLargest = 0x7fffffff;
constexpr std::int32_t kUnderAllScores = -0x7fffffff - 1;

__device__ float score_of(std::int32_t ordered) {
  return __int_as_float(ordered ^ (ordered >> 31 & 0x7fffffff));
}
__device__ std::int32_t ordered_of(float score) {
  const std::int32_t bits = __float_as_int(score);
  return bits ^ (bits >> 31 & 0x7fffffff);
}

/// Bins of 2^shift, as many as there are at most, hold `width` + 1 values.
__device__ std::int32_t shift_for(std::uint64_t width) {
  return max(0, 64 - __clzll(static_cast<long long>(width)) - 8);
}
static_assert(kSearchBins == 256);

__device__ void search_scores(SearchRow& row, std::int32_t low, std::int32_t high, Phase phase) {
  row.phase = phase;
  row.low = low;
  row.high = high;
  row.shift = shift_for(static_cast<std::uint64_t>(std::int64_t{high} - std::int64_t{low}));
}
__device__ void search_positions(SearchRow& row, std::int64_t first, std::int64_t last) {
  row.phase = kTies;
  row.first = first;
  row.last = last;
  row.shift = shift_for(static_cast<std::uint64_t>(last - first));
}
/// Keys over `low` are kept, and those of `low` from position `first` on.
__device__ void make_exact(SearchRow& row, std::int32_t low, std::int64_t first) {
  row.phase = kExact;
  row.low = low;
  row.high = kUnderAllScores;
  row.first = first;
}

struct SearchTask {
  SearchRow* rows;
  std::uint32_t* bins;
  const std::int64_t* keys_kept;
  std::uint32_t* open;
  std::int64_t num_streams, num_rows, first_query, num_samples;
};

/// A row's share of the sample, eight scores a lane.
struct Sample {
  std::int32_t mine[8];
  /// The score that `rank` (from 0) others are over, ties apart; by bisection.
  __device__ std::int32_t at(std::uint32_t rank) const {
    std::int64_t low = kUnderAllScores;
    std::int64_t high = kLargest;
    while (low < high) {  // the largest value that more than `rank` scores reach
      const std::int64_t middle = low + (high - low + 1) / 2;
      std::uint32_t reached = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) reached += mine[i] >= middle ? 1 : 0;
      if (__reduce_add_sync(0xFFFFFFFFu, reached) > rank) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return static_cast<std::int32_t>(low);
  }
};

/// Around the sample's quantile, four standard deviations of its rank to both sides and a little more; where that is
/// the sample's end, as much again. Decides nothing but the number of rounds.
__device__ void guess_range(SearchRow& row, const Sample& sample, float count, float share) {
  const float rank = share * count;
  const float spread = 4.0f * sqrtf(rank * (1.0f - share)) + 4.0f;
  const auto place = [&](float x) { return static_cast<std::uint32_t>(fminf(fmaxf(x, 0.0f), count - 1.0f)); };
  const float top = score_of(sample.at(place(rank - spread)));
  const float bottom = score_of(sample.at(place(rank + spread)));
  if (!(fabsf(top) < 1e30f && fabsf(bottom) < 1e30f)) return;
  const auto margin = [&](bool is_inside) { return (top - bottom) * (is_inside ? 0.1f : 1.0f); };
  // Adding 0 makes a -0 the 0 that scores are.
  search_scores(row, ordered_of(bottom - margin(rank + spread < count) + 0.0f),
                ordered_of(top + margin(rank > spread) + 0.0f), kGuessed);
}

/// A warp a row.
__global__ void start_kernel(SearchTask task) {
  const std::int64_t index = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (index >= task.num_streams * task.num_rows) return;
  const std::int64_t local = index % task.num_rows;
  std::uint32_t* bins = task.bins + index * kSearchBins;
  SearchRow row{task.keys_kept[local], 0, 0, 0, 0, 0, 0, 0};
  Sample sample;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (task.num_samples > 0) sample.mine[i] = static_cast<std::int32_t>(bins[lane + 32 * i]);
    bins[lane + 32 * i] = 0;
  }
  const std::int64_t num_visible = task.first_query + local + 1;
  search_scores(row, kUnderAllScores + 1, kLargest, kNarrowing);
  if (row.wanted >= num_visible) {
    make_exact(row, kUnderAllScores, 0);
  } else if (task.num_samples > 0) {
    guess_range(row, sample, static_cast<float>(task.num_samples),
                static_cast<float>(row.wanted) / static_cast<float>(num_visible));
  }
  if (lane == 0) task.rows[index] = row;
}

/// The bin in which, counted from the top, the wanted number is reached; -1: none.
struct Hit {
  std::int64_t bin;
  std::int64_t kept;  ///< keys in this bin and above
};

/// Lane l has bins 8 l .. 8 l + 7.
__device__ Hit find_bin(const SearchRow& row, const std::uint32_t (&mine)[8]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  std::uint32_t total = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) total += mine[i];
  std::uint32_t above = total;  // of this lane and those behind it
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const std::uint32_t other = __shfl_down_sync(0xFFFFFFFFu, above, static_cast<unsigned>(distance));
    if (lane + distance < 32) above += other;
  }
  std::int64_t kept = row.over + above - total;
  Hit hit{-1, 0};
#pragma unroll
  for (int i = 7; i >= 0; --i) {
    kept += mine[i];
    if (hit.bin < 0 && kept >= row.wanted) hit = {8 * lane + i, kept};
  }
  const std::uint32_t hits = __ballot_sync(0xFFFFFFFFu, hit.bin >= 0);
  if (hits == 0) return {-1, 0};
  const int winner = 31 - __clz(static_cast<int>(hits));
  return {__shfl_sync(0xFFFFFFFFu, hit.bin, winner), __shfl_sync(0xFFFFFFFFu, hit.kept, winner)};
}

__device__ void narrow_scores(SearchRow& row, const Hit& hit, std::int64_t query) {
  if (row.over >= row.wanted) return search_scores(row, row.high + 1, kLargest, kNarrowing);
  if (hit.bin < 0) return search_scores(row, kUnderAllScores + 1, row.low - 1, kNarrowing);
  const std::int64_t low = row.low + (hit.bin << row.shift);
  const std::int64_t high = min(std::int64_t{row.high}, low + (std::int64_t{1} << row.shift) - 1);
  if (hit.kept == row.wanted) return make_exact(row, static_cast<std::int32_t>(low), 0);
  search_scores(row, static_cast<std::int32_t>(low), static_cast<std::int32_t>(high), kNarrowing);
  if (low == high) search_positions(row, 0, query);
}

__device__ void narrow_positions(SearchRow& row, const Hit& hit) {
  const std::int64_t first = row.first + (hit.bin << row.shift);
  const std::int64_t last = min(row.last, first + (std::int64_t{1} << row.shift) - 1);
  if (hit.kept == row.wanted) return make_exact(row, row.low, first);
  search_positions(row, first, last);
}

/// A warp a row.
__global__ void narrow_kernel(SearchTask task) {
  const std::int64_t index = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  if (index >= task.num_streams * task.num_rows) return;
  SearchRow row = task.rows[index];
  if (row.phase == kExact) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  std::uint32_t* bins = task.bins + index * kSearchBins + 8 * lane;
  std::uint32_t mine[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    mine[i] = bins[i];
    bins[i] = 0;
  }
  const Hit hit = find_bin(row, mine);
  if (row.phase == kTies) {
    narrow_positions(row, hit);
  } else {
    narrow_scores(row, hit, task.first_query + index % task.num_rows);
  }
  row.over = 0;
  if (lane != 0) return;
  task.rows[index] = row;
  if (row.phase != kExact) atomicAdd(task.open, 1u);
}

SearchTask search_task(const DeviceSearch& search) {
  return {search.rows,       search.bins, nullptr, search.open, search.shape.batch * search.shape.slots,
          search.shape.rows, search.first_query, 0};
}

template <typename Kernel>
void launch_warps(Kernel kernel, const SearchTask& task, cudaStream_t stream) {
  constexpr int kWarps = 8;
  const std::int64_t rows = task.num_streams * task.num_rows;
  if (rows == 0) return;
  kernel<<<static_cast<unsigned>((rows + kWarps - 1) / kWarps), 32 * kWarps, 0, stream>>>(task);
  check(cudaGetLastError());
}

}  // namespace

void begin_rows(const DeviceSearch& search, const std::int64_t* keys_kept, std::int64_t num_samples,
                cudaStream_t stream) {
  SearchTask task = search_task(search);
  task.keys_kept = keys_kept;
  task.num_samples = num_samples;
  launch_warps(start_kernel, task, stream);
}

void narrow(const DeviceSearch& search, cudaStream_t stream) {
  check(cudaMemsetAsync(search.open, 0, sizeof(std::uint32_t), stream));
  launch_warps(narrow_kernel, search_task(search), stream);
}

}  // namespace ringscan::cuda::portable
