#pragma once
// One row of a search, a warp a row: which range comes next, and where in its bins or its list the threshold is.

#include "kernels/cuda/score_order.cuh"
#include "kernels/cuda/search.hpp"

namespace ringscan::cuda {

/// Rounds with a list that may miss before a row is searched by bins alone.
inline constexpr std::int32_t kMostMisses = 2;
/// Rows that see no more keys are listed whole.
inline constexpr std::int64_t kListWhole = 800;

/// Bins of 2^shift, as many as there are at most, hold `width` + 1 values.
__device__ inline std::int32_t shift_for(std::uint64_t width) {
  return max(0, 64 - __clzll(static_cast<long long>(width)) - 8);
}
static_assert(kSearchBins == 256);

__device__ inline void search_scores(SearchRow& row, std::int32_t low, std::int32_t high, Phase phase) {
  row.phase = phase;
  row.low = low;
  row.high = high;
  row.shift = shift_for(static_cast<std::uint64_t>(std::int64_t{high} - std::int64_t{low}));
}
__device__ inline void search_positions(SearchRow& row, std::int64_t first, std::int64_t last, Phase phase) {
  row.phase = phase;
  row.first = first;
  row.last = last;
  row.shift = shift_for(static_cast<std::uint64_t>(last - first));
}
/// Keys over `low` are kept, and those of `low` from position `first` on.
__device__ inline void make_exact(SearchRow& row, std::int32_t low, std::int64_t first) {
  row.phase = kExact;
  row.low = low;
  row.high = kUnderAllScores;
  row.first = first;
}
__device__ inline bool is_listed(const SearchRow& row) {
  return row.phase == kListed || row.phase == kListedTies;
}

/// A list's range of scores; false where it has no finite ends.
__device__ inline bool list_scores(SearchRow& row, float low, float high) {
  if (!(fabsf(low) < 1e30f && fabsf(high) < 1e30f)) return false;
  // Adding 0 makes a -0 the 0 that scores are.
  search_scores(row, ordered_of(low + 0.0f), ordered_of(high + 0.0f), kListed);
  return true;
}

/// The bin in which, counted from the top, the wanted number is reached; -1: none.
template <typename Count>
struct Hit {
  int bin;
  Count kept;            ///< keys in this bin and above
  std::uint32_t inside;  ///< keys in this bin
};

/// Lane l has bins 8 l .. 8 l + 7; `over` keys lie above them all.
template <typename Count>
__device__ Hit<Count> find_bin(Count over, Count wanted, const std::uint32_t (&mine)[8]) {
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
  Count kept = over + static_cast<Count>(above - total);
  Hit<Count> hit{-1, 0, 0};
#pragma unroll
  for (int i = 7; i >= 0; --i) {
    kept += static_cast<Count>(mine[i]);
    if (hit.bin < 0 && kept >= wanted) hit = {8 * lane + i, kept, mine[i]};
  }
  const std::uint32_t hits = __ballot_sync(0xFFFFFFFFu, hit.bin >= 0);
  if (hits == 0) return {-1, 0, 0};
  const int winner = 31 - __clz(static_cast<int>(hits));
  return {__shfl_sync(0xFFFFFFFFu, hit.bin, winner), __shfl_sync(0xFFFFFFFFu, hit.kept, winner),
          __shfl_sync(0xFFFFFFFFu, hit.inside, winner)};
}

/// A row's list in the registers of a warp, as unsigned integers in order: scores or offsets of positions.
class ListedKeys {
 public:
  /// Lane l has pieces l % 8, l % 8 + 8, ... of four keys of part l / 8. f(word) makes the integers.
  template <typename F>
  __device__ ListedKeys(const std::uint32_t* list, F&& f) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const std::uint32_t* part = list + lane / 8 * kPartWords;
    length_ = part[kPartKeys];
    is_known_ = !__any_sync(0xFFFFFFFFu, length_ == kUnknown);
    if (!is_known_) length_ = 0;
    const std::uint32_t all = __reduce_add_sync(0xFFFFFFFFu, lane % 8 == 0 ? length_ : 0);
    if (length_ > kPartKeys) length_ = kSureKeys;
    total_ = __reduce_add_sync(0xFFFFFFFFu, lane % 8 == 0 ? length_ : 0);
    missing_ = all - total_;
    longest_ = __reduce_max_sync(0xFFFFFFFFu, length_);
    const auto* pieces = reinterpret_cast<const uint4*>(part) + lane % 8;
    uint4 piece[kPieces];
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      piece[i] = {0, 0, 0, 0};
      if (place(i) < length_) piece[i] = pieces[8 * i];
    }
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      keys_[4 * i] = f(piece[i].x);
      keys_[4 * i + 1] = f(piece[i].y);
      keys_[4 * i + 2] = f(piece[i].z);
      keys_[4 * i + 3] = f(piece[i].w);
    }
  }
  __device__ bool is_known() const { return is_known_; }
  __device__ int total() const { return static_cast<int>(total_); }
  /// So many more keys were in the range, and found no room.
  __device__ int missing() const { return static_cast<int>(missing_); }

  /// Numbers of keys in bins of 2^shift from `low` on, those outside apart; `bins`: 256 words of the warp's own.
  __device__ void count(std::uint32_t low, std::uint32_t high, int shift, std::uint32_t* bins,
                        std::uint32_t (&mine)[8]) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    auto* pieces = reinterpret_cast<uint4*>(bins);
    __syncwarp();
    pieces[lane] = pieces[lane + 32] = {0, 0, 0, 0};
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      if (32u * static_cast<unsigned>(i) >= longest_) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const std::uint32_t key = keys_[4 * i + j];
        if (place(i) + j < length_ && key >= low && key <= high) atomicAdd(bins + ((key - low) >> shift), 1u);
      }
    }
    __syncwarp();
    const uint4 a = pieces[2 * lane];
    const uint4 b = pieces[2 * lane + 1];
    mine[0] = a.x, mine[1] = a.y, mine[2] = a.z, mine[3] = a.w;
    mine[4] = b.x, mine[5] = b.y, mine[6] = b.z, mine[7] = b.w;
  }

  struct Cut {
    std::uint32_t low;  ///< keys from here on are `kept`
    int kept;           ///< at least as many as wanted; more only where `inside` of them are `low`
    std::uint32_t inside;
  };
  /// The `wanted` largest of the keys, all of which lie in [low, high]. @pre 1 <= wanted <= total().
  __device__ Cut cut(std::uint32_t low, std::uint32_t high, int wanted, std::uint32_t* bins) const {
    int above = 0;
    for (;;) {
      const int shift = shift_for(high - low);
      std::uint32_t mine[8];
      count(low, high, shift, bins, mine);
      const Hit<int> hit = find_bin(above, wanted, mine);
      const std::uint32_t bin_low = low + (static_cast<std::uint32_t>(hit.bin) << shift);
      if (hit.kept == wanted || shift == 0 || hit.bin < 0) return {bin_low, hit.kept, hit.inside};
      above = hit.kept - static_cast<int>(hit.inside);
      low = bin_low;
      high = static_cast<std::uint32_t>(min(std::uint64_t{high}, std::uint64_t{low} + (std::uint64_t{1} << shift) - 1));
    }
  }

 private:
  static constexpr int kPieces = kPartWords / 32;
  __device__ static std::uint32_t place(int i) { return 4 * (threadIdx.x % 8) + 32 * static_cast<unsigned>(i); }

  std::uint32_t length_, longest_;
  std::uint32_t total_, missing_;
  bool is_known_;
  std::uint32_t keys_[4 * kPieces];
};

/// Where in unsigned order a score stands that stands at `ordered` in signed order.
__device__ inline std::uint32_t place_of(std::int32_t ordered) {
  return static_cast<std::uint32_t>(ordered) ^ 0x80000000u;
}
__device__ inline std::int32_t ordered_at(std::uint32_t place) {
  return static_cast<std::int32_t>(place ^ 0x80000000u);
}

}  // namespace ringscan::cuda
