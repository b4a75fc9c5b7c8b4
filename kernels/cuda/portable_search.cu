// Exact top-k between the rounds of counting: where each row looks first, and where it looks next.
#include <cstdint>

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/portable_params.hpp"
#include "kernels/cuda/search_rows.cuh"

namespace ringscan::cuda::portable {
namespace {

constexpr int kWarps = 8;  ///< of a block

struct SearchTask {
  SearchRow* rows;
  std::uint32_t* bins;
  const std::int64_t* keys_kept;
  std::uint32_t* open;
  std::int64_t num_streams, num_rows, first_query, num_samples;
  std::int64_t words;  ///< of a row's bins or list
  std::int64_t flags;  ///< of a stream
  float scale_log2;    ///< 0: no lists
};

/// Empties the row's bins or list and flags it where it is still searched; by a warp.
__device__ void begin_round(const SearchTask& task, const SearchRow& row, std::int64_t index) {
  if (row.phase == kExact) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  std::uint32_t* words = task.bins + index * task.words;
  if (is_listed(row)) {
    if (lane < kListParts) words[lane * kPartWords + kPartKeys] = 0;
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) words[lane + 32 * i] = 0;
  }
  if (task.scale_log2 > 0.0f && lane == 0) {
    task.open[1 + index / task.num_rows * task.flags + index % task.num_rows / kFlagRows] = 1;
  }
}

/// A row's share of the sample, eight scores a lane.
struct Sample {
  std::int32_t mine[8];
  /// The score that `rank` (from 0) others are over, ties apart; by bisection.
  __device__ std::int32_t at(std::uint32_t rank) const {
    std::int64_t low = kUnderAllScores;
    std::int64_t high = kLargestScore;
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
  std::uint32_t* bins = task.bins + index * task.words;
  SearchRow row{task.keys_kept[local], 0, 0, 0, 0, 0, 0, 0, 0, 0};
  Sample sample;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (task.num_samples > 0) sample.mine[i] = static_cast<std::int32_t>(bins[lane + 32 * i]);
    bins[lane + 32 * i] = 0;
  }
  const std::int64_t num_visible = task.first_query + local + 1;
  search_scores(row, kUnderAllScores + 1, kLargestScore, kNarrowing);
  if (row.wanted >= num_visible) {
    make_exact(row, kUnderAllScores, 0);
  } else if (task.num_samples > 0) {
    guess_range(row, sample, static_cast<float>(task.num_samples),
                static_cast<float>(row.wanted) / static_cast<float>(num_visible));
  }
  if (lane == 0) task.rows[index] = row;
}

/// A list ends the search of so few keys, however they fall on its parts.
__device__ bool prefers_list(const SearchTask& task, const SearchRow& row, std::int64_t keys) {
  return task.scale_log2 > 0.0f && keys <= kSureToFit && row.misses <= kMostMisses;
}
/// All keys of the threshold's score, `keys` of them, are to be told apart by position.
__device__ void search_ties(const SearchTask& task, SearchRow& row, std::int32_t score, std::int64_t keys,
                            std::int64_t query) {
  search_scores(row, score, score, kTies);
  search_positions(row, 0, query, prefers_list(task, row, keys) && query < 0xFFFFFFFF ? kListedTies : kTies);
}

__device__ void narrow_scores(const SearchTask& task, SearchRow& row, const Hit<std::int64_t>& hit, std::int64_t query) {
  if (row.over >= row.wanted) return search_scores(row, row.high + 1, kLargestScore, kNarrowing);
  if (hit.bin < 0) return search_scores(row, kUnderAllScores + 1, row.low - 1, kNarrowing);
  const std::int64_t low = row.low + (std::int64_t{hit.bin} << row.shift);
  const std::int64_t high = min(std::int64_t{row.high}, low + (std::int64_t{1} << row.shift) - 1);
  if (hit.kept == row.wanted) return make_exact(row, static_cast<std::int32_t>(low), 0);
  if (low == high) return search_ties(task, row, static_cast<std::int32_t>(low), hit.inside, query);
  search_scores(row, static_cast<std::int32_t>(low), static_cast<std::int32_t>(high),
                prefers_list(task, row, hit.inside) ? kListed : kNarrowing);
}

__device__ void narrow_positions(const SearchTask& task, SearchRow& row, const Hit<std::int64_t>& hit) {
  const std::int64_t first = row.first + (std::int64_t{hit.bin} << row.shift);
  const std::int64_t last = min(row.last, first + (std::int64_t{1} << row.shift) - 1);
  if (hit.kept == row.wanted) return make_exact(row, row.low, first);
  search_positions(row, first, last,
                   prefers_list(task, row, hit.inside) && last - first < 0xFFFFFFFF ? kListedTies : kTies);
}

/// The threshold lies over (or under) the range: the next one adjoins it, as wide as the keys there let expect, and a
/// list again; after some misses, all there is.
__device__ void search_beside(SearchRow& row, bool above, std::int64_t missing, std::int64_t listed) {
  const float low = score_of(row.low);
  const float high = score_of(row.high);
  const std::int32_t beside = above ? row.high + 1 : row.low - 1;
  const float width = fmaxf(high - low, 1e-6f * fmaxf(fabsf(low), fabsf(high)));
  const float share = (2.0f * static_cast<float>(missing) + 32.0f) / static_cast<float>(listed + 8);
  const float edge = score_of(beside);
  const float end = above ? high + width * share : low - width * share;
  if (++row.misses <= kMostMisses && (above ? list_scores(row, edge, end) : list_scores(row, end, edge))) return;
  search_scores(row, above ? beside : kUnderAllScores + 1, above ? kLargestScore : beside, kNarrowing);
}

/// The threshold is the `wanted`-th of all keys in the range, some of which the list does not hold: of those that it
/// holds it is that one or one up to so many places before.
__device__ void search_among(const SearchTask& task, SearchRow& row, const ListedKeys& keys, int wanted,
                             std::uint32_t* bins, std::int64_t query) {
  constexpr int kMostMissing = kListParts * kSureKeys / 3;  // of about twice as many the next list is to have room for
  const std::uint32_t low = place_of(row.low);
  const std::uint32_t high = place_of(row.high);
  std::int32_t least = row.low;
  std::int32_t most = row.high;
  if (wanted <= keys.total()) least = ordered_at(keys.cut(low, high, wanted, bins).low);
  const int above = wanted - keys.missing() - 1;
  if (above > 0) {
    const auto cut = keys.cut(low, high, above, bins);
    most = cut.kept == above ? ordered_at(cut.low - 1) : ordered_at(cut.low);
  }
  if (least == most) return search_ties(task, row, least, keys.total(), query);
  if (++row.misses <= kMostMisses && keys.missing() <= kMostMissing &&
      list_scores(row, score_of(least), score_of(most))) {
    return;
  }
  search_scores(row, least, most, kNarrowing);
}

/// Ends a round in which the row's keys were listed.
__device__ void narrow_list(const SearchTask& task, SearchRow& row, const std::uint32_t* list, std::uint32_t* bins,
                            std::int64_t query) {
  const bool ties = row.phase == kListedTies;
  const ListedKeys keys(list, [&](std::uint32_t word) {
    return ties ? word : place_of(ordered_bits(__fmul_rn(__uint_as_float(word), task.scale_log2)));
  });
  if (!keys.is_known() || (ties && keys.missing() > 0)) {
    ++row.misses;
    if (ties) return search_positions(row, row.first, row.last, kTies);
    if (row.over >= row.wanted) return search_scores(row, row.high + 1, kLargestScore, kNarrowing);
    return search_scores(row, row.low, row.high, kNarrowing);
  }
  const int listed = keys.total() + keys.missing();
  if (row.over >= row.wanted) return search_beside(row, true, row.over - row.wanted, listed);
  const std::int64_t wanted = row.wanted - row.over;
  if (listed < wanted) return search_beside(row, false, wanted - listed, listed);
  if (keys.missing() > 0) return search_among(task, row, keys, static_cast<int>(wanted), bins, query);
  const std::uint32_t low = ties ? 0 : place_of(row.low);
  const std::uint32_t high = ties ? static_cast<std::uint32_t>(row.last - row.first) : place_of(row.high);
  const auto cut = keys.cut(low, high, static_cast<int>(wanted), bins);
  if (ties) return make_exact(row, row.low, row.first + cut.low);
  if (cut.kept == wanted) return make_exact(row, ordered_at(cut.low), 0);
  search_ties(task, row, ordered_at(cut.low), cut.inside, query);
}

/// A warp a row.
__global__ void __launch_bounds__(32 * kWarps, 3) narrow_kernel(SearchTask task) {
  __shared__ alignas(16) std::uint32_t shared_bins[kWarps][kSearchBins];
  const std::int64_t index = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  if (index >= task.num_streams * task.num_rows) return;
  SearchRow row = task.rows[index];
  if (row.phase == kExact) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const std::int64_t local = index % task.num_rows;
  const std::int64_t query = task.first_query + local;
  std::uint32_t* words = task.bins + index * task.words;
  if (is_listed(row)) {
    narrow_list(task, row, words, shared_bins[threadIdx.x / 32], query);
  } else {
    std::uint32_t mine[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) mine[i] = words[8 * lane + i];
    const Hit<std::int64_t> hit = find_bin(row.over, row.wanted, mine);
    if (row.phase == kTies) {
      narrow_positions(task, row, hit);
    } else {
      narrow_scores(task, row, hit, query);
    }
  }
  row.over = 0;
  __syncwarp();  // all lanes have read
  begin_round(task, row, index);
  if (lane != 0) return;
  task.rows[index] = row;
  if (row.phase != kExact) atomicAdd(task.open, 1u);
}

SearchTask search_task(const DeviceSearch& search) {
  SearchTask task{};
  task.rows = search.rows;
  task.bins = search.bins;
  task.open = search.open;
  task.num_streams = search.shape.batch * search.shape.slots;
  task.num_rows = search.shape.rows;
  task.first_query = search.first_query;
  task.words = search_words(search.has_lists);
  task.flags = flags_a_stream(search.shape);
  task.scale_log2 = search.has_lists ? search.scale_log2 : 0.0f;
  return task;
}

template <typename Kernel, typename... More>
void launch_warps(Kernel kernel, const SearchTask& task, cudaStream_t stream, const More&... more) {
  const std::int64_t rows = task.num_streams * task.num_rows;
  if (rows == 0) return;
  kernel<<<static_cast<unsigned>((rows + kWarps - 1) / kWarps), 32 * kWarps, 0, stream>>>(task, more...);
  check(cudaGetLastError());
}

/// Where each row looks first before there is a sample: everywhere, in a list where that is sure to hold it. A thread a
/// row; bins are emptied by refine_kernel.
__global__ void begin_kernel(SearchTask task) {
  const std::int64_t index = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= task.num_streams * task.num_rows) return;
  const std::int64_t local = index % task.num_rows;
  SearchRow row{task.keys_kept[local], 0, 0, 0, 0, 0, 0, 0, 0, 0};
  const std::int64_t num_visible = task.first_query + local + 1;
  search_scores(row, kUnderAllScores + 1, kLargestScore, kNarrowing);
  if (row.wanted >= num_visible) {
    make_exact(row, kUnderAllScores, 0);
  } else if (num_visible <= kListWhole) {
    list_scores(row, -1e25f, 1e25f);
  }
  std::uint32_t* words = task.bins + index * task.words;
  for (int part = 0; part < kListParts; ++part) words[part * kPartWords + kPartKeys] = 0;
  if (row.phase != kExact) task.open[1 + index / task.num_rows * task.flags + local / kFlagRows] = 1;
  task.rows[index] = row;
}

/// The keys of a sample that a row sees.
struct SampleKeys {
  std::int64_t first, step, count;  ///< positions
  std::int64_t min_delta;           ///< a row sees keys that far before it
};

/// The list of a sample's keys says where to look among all: the quantile, and 3.5 standard deviations of its rank to
/// both sides.
__device__ void refine_range(const SearchTask& task, SearchRow& row, const std::uint32_t* list, std::uint32_t* bins,
                             std::int64_t num_visible, std::int64_t num_samples) {
  constexpr std::int64_t kLeastSamples = 64;
  const ListedKeys keys(list, [&](std::uint32_t word) {
    return place_of(ordered_bits(__fmul_rn(__uint_as_float(word), task.scale_log2)));
  });
  if (num_samples < kLeastSamples || !keys.is_known() || keys.total() == 0) return;
  const auto samples = static_cast<float>(num_samples);
  const float share = static_cast<float>(row.wanted) / static_cast<float>(num_visible);
  const float spread = 3.5f * sqrtf(share * (1.0f - share) * samples) + 2.0f;
  const auto highest = static_cast<std::int64_t>(share * samples - spread) - keys.missing();
  const auto lowest = static_cast<std::int64_t>(share * samples + spread) + 1;
  std::uint32_t mine[8];
  keys.count(place_of(row.low), place_of(row.high), row.shift, bins, mine);
  std::int64_t low = row.low;
  std::int64_t high = row.high;
  if (highest > row.over && highest <= row.over + keys.total()) {
    const std::int64_t bin = find_bin(row.over, highest, mine).bin;
    high = min(high, row.low + ((bin + 1) << row.shift) - 1);
  }
  if (lowest > row.over && lowest <= row.over + keys.total()) {
    low += std::int64_t{find_bin(row.over, lowest, mine).bin} << row.shift;
  }
  list_scores(row, score_of(static_cast<std::int32_t>(low)), score_of(static_cast<std::int32_t>(high)));
}

__global__ void __launch_bounds__(32 * kWarps, 3) refine_kernel(SearchTask task, SampleKeys sample) {
  __shared__ alignas(16) std::uint32_t shared_bins[kWarps][kSearchBins];
  const std::int64_t index = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  if (index >= task.num_streams * task.num_rows) return;
  SearchRow row = task.rows[index];
  if (row.phase == kExact) return;
  const std::int64_t query = task.first_query + index % task.num_rows;
  if (row.phase == kListed && query + 1 > kListWhole) {
    const std::int64_t behind = query - sample.min_delta - sample.first;
    const std::int64_t seen = behind < 0 ? 0 : min(sample.count, behind / sample.step + 1);
    refine_range(task, row, task.bins + index * task.words, shared_bins[threadIdx.x / 32], query + 1, seen);
  }
  row.over = 0;
  __syncwarp();
  begin_round(task, row, index);
  if (threadIdx.x % 32 == 0) task.rows[index] = row;
}

}  // namespace

void begin_listed_rows(const DeviceSearch& search, const std::int64_t* keys_kept, cudaStream_t stream) {
  check(cudaMemsetAsync(search.open, 0, search_open_bytes(search.shape, search.has_lists), stream));
  SearchTask task = search_task(search);
  task.keys_kept = keys_kept;
  const std::int64_t rows = task.num_streams * task.num_rows;
  if (rows == 0) return;
  begin_kernel<<<static_cast<unsigned>((rows + 255) / 256), 256, 0, stream>>>(task);
  check(cudaGetLastError());
}

void refine_listed_rows(const DeviceSearch& search, std::int64_t first, std::int64_t step, std::int64_t count,
                        std::int64_t min_delta, cudaStream_t stream) {
  launch_warps(refine_kernel, search_task(search), stream, SampleKeys{first, step, count, min_delta});
}

void begin_rows(const DeviceSearch& search, const std::int64_t* keys_kept, std::int64_t num_samples,
                cudaStream_t stream) {
  SearchTask task = search_task(search);
  task.keys_kept = keys_kept;
  task.num_samples = num_samples;
  launch_warps(start_kernel, task, stream);
}

void narrow(const DeviceSearch& search, cudaStream_t stream) {
  check(cudaMemsetAsync(search.open, 0, search_open_bytes(search.shape, search.has_lists), stream));
  launch_warps(narrow_kernel, search_task(search), stream);
}

}  // namespace ringscan::cuda::portable
