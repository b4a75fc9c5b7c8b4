#pragma once
// Exact top-k's rounds of counting on Hopper: scores alone, from the same matrix instructions in the same order as the
// attend kernels', so that both see the same bits. A persistent grid; one warp loads, two warpgroups count 64 query rows
// each, this tile's scores while the next tile's are multiplied.
//
// A score costs one comparison: those that reach the low end of their row's range go, by a predicated store, to a queue
// that the lane has in shared memory for each of its two rows. When queues fill up, the few in them are told apart: over
// the range, into the row's bins, or into its list, of which each of the four lanes that share the row has a part of its
// own, so that nothing has to be agreed.

#include "kernels/cuda/count_params_sm90.hpp"
#include "kernels/cuda/score_order.cuh"
#include "kernels/cuda/search.hpp"
#include "kernels/cuda/search_rows.cuh"
#include "kernels/cuda/softmax_weights_sm90.cuh"
#include "kernels/cuda/wgmma_sm90.cuh"
#include "kernels/cuda/work_item_sm90.cuh"

namespace ringscan::cuda {

inline constexpr int kQueueDepth = 32;

template <typename Shape>
struct CountTiles {
  alignas(1024) std::uint8_t q[Shape::kQueryBuffers][Shape::kQueryBytes];
  alignas(1024) std::uint8_t k[Shape::kStages][Shape::kKeyBytes];
  RingBarriers<Shape::kQueryBuffers> q_ring;
  RingBarriers<Shape::kStages> k_ring;
  std::uint32_t item[Shape::kQueryBuffers];  ///< the work item whose queries these are; num_items: no more
  float queued[kQueueDepth][2][128 * Shape::kConsumers];  ///< of each consumer thread, for its two rows
};

/// floor(a / b), b > 0.
__device__ inline std::int64_t floor_quotient(std::int64_t a, std::int64_t b) {
  if (b == 1) return a;
  return a >= 0 ? a / b : -((b - 1 - a) / b);
}
/// The first and last key that a row, local to its run, sees; keys lie key_step positions apart.
__device__ inline std::int64_t first_seen(const CountParams& p, std::int64_t row) {
  return max(std::int64_t{0},
             -floor_quotient(p.attend.max_delta - row - p.attend.query_minus_key, p.key_step));
}
__device__ inline std::int64_t last_seen(const CountParams& p, std::int64_t row) {
  return min(p.attend.num_keys - 1,
             floor_quotient(row + p.attend.query_minus_key - p.attend.min_delta, p.key_step));
}

/// As work_item(), for keys that lie apart.
template <typename Shape>
__device__ WorkItem count_item(const CountParams& p, std::uint32_t index) {
  WorkItem item = work_item<Shape>(p.attend, index);
  const std::int64_t last_row = min(item.row + Shape::kRows, p.attend.num_queries) - 1;
  const std::int64_t begin = p.sees_all ? 0 : first_seen(p, item.row);
  const std::int64_t end = p.sees_all ? p.attend.num_keys : last_seen(p, last_row) + 1;
  item.first_tile = static_cast<std::int32_t>(begin / Shape::kKeys);
  item.num_tiles = end > begin ? static_cast<std::int32_t>((end - 1) / Shape::kKeys) + 1 - item.first_tile : 0;
  return item;
}

template <typename Shape>
class CountLoader {
 public:
  __device__ CountLoader(const CountParams& p, const CountMaps& maps, CountTiles<Shape>& shared)
      : p_(p), maps_(maps), shared_(shared) {}

  __device__ void run() {
    for (;;) {
      const std::uint32_t index = atomicAdd(p_.attend.next_item, 1u);
      const bool ends = index >= p_.attend.num_items;
      const WorkItem item = count_item<Shape>(p_, ends ? 0 : index);
      if (!ends && !is_open(item)) continue;
      shared_.q_ring.wait_empty(q_at_);
      shared_.item[q_at_.slot] = ends ? p_.attend.num_items : index;
      if (ends) {
        shared_.q_ring.fill(q_at_, 0);
        break;
      }
      load(item);
      q_at_.advance();
    }
    atomicAdd(p_.attend.tiles_loaded, loaded_);
  }

 private:
  /// Whether a row of the item is searched still.
  __device__ bool is_open(const WorkItem& item) const {
    if (p_.takes_all) return true;
    const std::int64_t stream = static_cast<std::int64_t>(item.batch) * p_.attend.num_slots + item.slot;
    const std::int64_t flags = (p_.attend.num_queries + kFlagRows - 1) / kFlagRows;
    for (std::int64_t at = item.row / kFlagRows; at < min(flags, (item.row + Shape::kRows) / kFlagRows); ++at) {
      if (p_.open[stream * flags + at] != 0) return true;
    }
    return false;
  }

  __device__ void load(const WorkItem& item) {
    shared_.q_ring.fill(q_at_, Shape::kQueryBytes);
    std::uint8_t* to = shared_.q[q_at_.slot];
    for (int d = 0; d < Shape::kHeadDim; d += 64, to += Shape::kRows * 128) {
      load_box<4>(to, &maps_.q, {d, static_cast<std::int32_t>(item.row), p_.attend.q_head[item.slot], item.batch},
                  shared_.q_ring.full[q_at_.slot]);
    }
    for (std::int32_t n = 0; n < item.num_tiles; ++n, ++loaded_) {
      const std::int64_t start = tile_start<Shape>(p_.attend, item.first_tile + item.num_tiles - 1 - n);
      shared_.k_ring.wait_empty(k_at_);
      shared_.k_ring.fill(k_at_, Shape::kKeyBytes);
      to = shared_.k[k_at_.slot];
      for (int d = 0; d < Shape::kHeadDim; d += 64, to += Shape::kKeys * 128) {
        load_box<5>(to, &maps_.k, {d, 0, static_cast<std::int32_t>(start), p_.attend.kv_head[item.slot], item.batch},
                    shared_.k_ring.full[k_at_.slot]);
      }
      k_at_.advance();
    }
  }

  const CountParams& p_;
  const CountMaps& maps_;
  CountTiles<Shape>& shared_;
  typename decltype(CountTiles<Shape>::q_ring)::Position q_at_;
  typename decltype(CountTiles<Shape>::k_ring)::Position k_at_;
  std::uint32_t loaded_ = 0;
};

/// A tile's scores, and the walk over an item's tiles: what counting and sampling share.
template <typename Shape, typename Element>
class ScoreWalk {
 public:
  static constexpr int kScores = Shape::kKeys / 2;  ///< of a thread and tile
  static constexpr int kRun = Shape::kKeys / 8;
  using Scores = float[kScores];

  __device__ ScoreWalk(const CountParams& p, CountTiles<Shape>& shared)
      : p_(p), shared_(shared), warpgroup_(static_cast<int>(threadIdx.x / 128) - 1) {}

  __device__ static int lane() { return static_cast<int>(threadIdx.x % 32); }
  __device__ int row_of(int r) const {
    return 64 * warpgroup_ + static_cast<int>(threadIdx.x % 128 / 32) * 16 + lane() / 4 + 8 * r;
  }
  __device__ std::int64_t stream_row(const WorkItem& item, int r) const {
    return (static_cast<std::int64_t>(item.batch) * p_.attend.num_slots + item.slot) * p_.attend.num_queries +
           item.row + row_of(r);
  }
  __device__ bool exists(const WorkItem& item, int r) const { return item.row + row_of(r) < p_.attend.num_queries; }

  /// The next item; false where there is none.
  __device__ bool next(WorkItem& item) {
    shared_.q_ring.wait_full(q_at_);
    std::uint32_t index = 0;
    if (lane() == 0) index = shared_.item[q_at_.slot];
    index = __shfl_sync(0xFFFFFFFFu, index, 0);
    if (index >= p_.attend.num_items) return false;
    item = count_item<Shape>(p_, index);
    return true;
  }
  __device__ void end_item() {
    shared_.q_ring.release(q_at_);
    q_at_.advance();
  }

  /// The next tile's scores, queued.
  __device__ void queue(Scores& s) {
    shared_.k_ring.wait_full(k_at_);
    wgmma_fence();
    const std::uint64_t q = matrix_descriptor(shared_.q[q_at_.slot] + warpgroup_ * 64 * 128, 16);
    const std::uint64_t k = matrix_descriptor(shared_.k[k_at_.slot], 16);
#pragma unroll
    for (int d = 0; d < Shape::kHeadDim; d += 16) {
      const int block = d / 64;
      const int within = d % 64 * 2;
      wgmma_ss<Element>(s, advance(q, block * Shape::kRows * 128 + within),
                        advance(k, block * Shape::kKeys * 128 + within), d > 0);
    }
    wgmma_commit();
    k_at_.advance();
  }
  /// A tile's scores are there: all queued but `kLater` tiles.
  template <int kLater>
  __device__ void arrive(Scores& s) {
    wgmma_wait<kLater>();
    pin(s);
    shared_.k_ring.release(used_at_);
    used_at_.advance();
  }

  /// Keys of a tile that rows may see, in the tile's own numbers.
  struct TileKeys {
    std::int64_t start;  ///< first key, in the run's numbers
    int begin, end;
  };
  __device__ TileKeys keys_of(std::int32_t tile) const {
    const std::int64_t start = tile_start<Shape>(p_.attend, tile);
    return {start, static_cast<int>(static_cast<std::int64_t>(tile) * Shape::kKeys - start),
            static_cast<int>(min(p_.attend.num_keys - start, std::int64_t{Shape::kKeys}))};
  }
  /// Place in its tile of the thread's score i + 2 r + e of row r.
  __device__ static int key_of(int i, int e) { return (2 * (lane() % 4) + e) * kRun + i / 4; }

 protected:
  const CountParams& p_;
  CountTiles<Shape>& shared_;
  const int warpgroup_;
  typename decltype(CountTiles<Shape>::q_ring)::Position q_at_;
  typename decltype(CountTiles<Shape>::k_ring)::Position k_at_;
  typename decltype(CountTiles<Shape>::k_ring)::Position used_at_;
};

/// What counts rarely and slowly: bins, positions, and lists of rows that the fast way does not take. Returns what is to
/// be added to the keys over the range. `list`: the lane's part.
static __device__ std::uint32_t record_key(const SearchRow* row, std::uint32_t* words, std::uint32_t* list,
                                                        float score, std::int32_t ordered, std::int64_t position) {
  const std::int32_t phase = row->phase;
  std::uint32_t listed = __float_as_uint(score);
  std::uint64_t offset = static_cast<std::uint32_t>(ordered) - static_cast<std::uint32_t>(row->low);
  if (phase == kTies || phase == kListedTies) {
    if (position > row->last) return 1;
    if (position < row->first) return 0;
    offset = static_cast<std::uint64_t>(position - row->first);
    listed = static_cast<std::uint32_t>(offset);
  }
  if (phase == kListed || phase == kListedTies) {
    const std::uint32_t length = list[kPartKeys];
    const bool fits = length < kPartKeys;
    if (fits) list[length] = listed;
    list[kPartKeys] = fits ? length + 1 : kOverflowed;
    return 0;
  }
  if (phase != kExact) atomicAdd(words + (offset >> row->shift), 1u);
  return 0;
}

template <typename Shape, typename Element, bool kAdds>
class CountConsumer : public ScoreWalk<Shape, Element> {
  using Walk = ScoreWalk<Shape, Element>;
  using typename Walk::Scores;
  using Walk::kScores, Walk::lane, Walk::key_of;

 public:
  using Walk::Walk;

  __device__ void run() {
    WorkItem item;
    while (this->next(item)) {
      begin(item);
      if (item.num_tiles > 0) walk(item);
      this->end_item();
      finish(item);
    }
  }

 private:
  using Walk::p_;

  __device__ std::uint32_t* words_of(const WorkItem& item, int r) const {
    return p_.words + this->stream_row(item, r) * kListWords;
  }
  __device__ std::uint32_t* part_of(const WorkItem& item, int r) const {
    return words_of(item, r) + lane() % 4 * kPartWords;
  }

  __device__ void begin(const WorkItem& item) {
    bool plain = false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const bool exists = this->exists(item, r);
      const std::int64_t row = item.row + this->row_of(r);
      const std::int64_t at = this->stream_row(item, r);
      first_[r] = 1;
      last_[r] = 0;
      if (exists) {
        first_[r] = static_cast<int>(p_.sees_all ? 0 : min(first_seen(p_, row), p_.attend.num_keys));
        last_[r] = static_cast<int>(p_.sees_all ? p_.attend.num_keys - 1 : max(last_seen(p_, row), std::int64_t{-1}));
      }
      least_[r] = INFINITY;
      most_[r] = -INFINITY;  // what is queued in spite of `least` counts as over the range, and is not read
      over_[r] = 0;
      length_[r] = 0;
      way_[r] = kNoWay;
      next_[r] = queue_begin(r);
      if (exists && p_.rows[at].phase != kExact) plain = plain || !take_fast(item, r, p_.rows[at]);
      if (kAdds) {
        weights_.begin(r);
        weights_.carry_in(r, exists ? p_.attend.first[at] : -INFINITY, exists ? p_.attend.sum[at] : 0.0f);
      }
    }
    has_ties_ = __any_sync(0xFFFFFFFFu, way_[0] == kToTies || way_[1] == kToTies);
    plain_ = __shfl_sync(0xFFFFFFFFu, all_of_warpgroup(!plain, 1 + this->warpgroup_) ? 0 : 1, 0) != 0;
  }

  /// The range in scores as they are. False where it has no end that a score which is not seen lies under.
  __device__ bool take_fast(const WorkItem& item, int r, const SearchRow& row) {
    const float least = least_factor(score_of(row.low), p_.attend.scale_log2, false);
    const float over = least_factor(score_of(row.high), p_.attend.scale_log2, true);
    if (!(least > -INFINITY && over <= INFINITY)) return false;
    least_[r] = least;
    most_[r] = score_of(ordered_of(over) - 1);
    way_[r] = row.phase == kListed                              ? kToList
              : row.phase == kTies || row.phase == kListedTies ? kToTies
                                                               : kToBins;
    // An overflowed part stays one.
    if (way_[r] == kToList) length_[r] = min(part_of(item, r)[kPartKeys], std::uint32_t{kFull});
    return true;
  }

  /// Address in shared memory.
  __device__ std::uint32_t queue_begin(int r) const {
    return static_cast<std::uint32_t>(
        __cvta_generic_to_shared(&this->shared_.queued[0][r][threadIdx.x - 128]));
  }

  __device__ void walk(const WorkItem& item) {
    Scores even, odd;
    std::int32_t tile = item.first_tile + item.num_tiles - 1;
    if (plain_) {
      for (; tile >= item.first_tile; --tile) {
        this->queue(even);
        this->template arrive<0>(even);
        take<true>(item, even, tile);
      }
      return;
    }
    this->queue(even);
    for (std::int32_t pairs = (item.num_tiles - 1) / 2; pairs > 0; --pairs) {
      step(item, even, odd, tile--);
      step(item, odd, even, tile--);
    }
    if (tile > item.first_tile) {
      step(item, even, odd, tile--);
      this->template arrive<0>(odd);
      take<false>(item, odd, tile);
    } else {
      this->template arrive<0>(even);
      take<false>(item, even, tile);
    }
  }
  /// Takes one tile's scores while the next tile's are multiplied.
  __device__ void step(const WorkItem& item, Scores& mine, Scores& next, std::int32_t tile) {
    this->queue(next);
    this->template arrive<1>(mine);
    take<false>(item, mine, tile);
  }

  template <bool kPlain>
  __device__ void take(const WorkItem& item, Scores& s, std::int32_t tile) {
    const typename Walk::TileKeys keys = this->keys_of(tile);
    int first[2], last[2];
    bool whole = keys.begin == 0 && keys.end == Shape::kKeys;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      first[r] = max(keys.begin, static_cast<int>(max(first_[r] - keys.start, std::int64_t{0})));
      last[r] = static_cast<int>(min(last_[r] - keys.start, std::int64_t{keys.end - 1}));
      whole = whole && first[r] == 0 && last[r] == Shape::kKeys - 1;
    }
    if (!__all_sync(0xFFFFFFFFu, whole)) {
#pragma unroll
      for (int i = 0; i < kScores; ++i) {
        const int r = i / 2 % 2;
        const int key = key_of(i, i % 2);
        if (key < first[r] || key > last[r]) s[i] = -INFINITY;
      }
    }
    if (kPlain) {
      record<false>(item, s, keys.start, first, last);
    } else {
      queue_scores(item, s);
      if (has_ties_) take_ties(item, s, keys.start, first, last);
    }
    if (kAdds) {
      const int unseen[2] = {0, 0};
      float rescale[2];
      weights_.prepare(s, p_.attend.scale_log2, rescale);
      weights_.weigh(s, p_.attend.scale_log2, unseen);
    }
  }

  /// The fast way. NaN counts as the largest.
  __device__ void queue_scores(const WorkItem& item, const Scores& s) {
#pragma unroll
    for (int group = 0; group < kScores; group += 2 * kGroup) {
      if (__any_sync(0xFFFFFFFFu, next_[0] > queue_begin(0) + (kQueueDepth - kGroup) * kQueueStep ||
                                      next_[1] > queue_begin(1) + (kQueueDepth - kGroup) * kQueueStep)) {
        empty_queues(item);
      }
#pragma unroll
      for (int i = group; i < group + 2 * kGroup; ++i) {
        const int r = i / 2 % 2;
        asm volatile(
            "{.reg .pred p; setp.geu.f32 p, %1, %2; @p st.shared.f32 [%0], %1; @p add.u32 %0, %0, %3;}"
            : "+r"(next_[r])
            : "f"(s[i]), "f"(least_[r]), "n"(kQueueStep)
            : "memory");
      }
    }
  }
  /// Tells apart what waits in the queues; all lanes take part.
  __device__ void empty_queues(const WorkItem& item) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int length = static_cast<int>((next_[r] - queue_begin(r)) / kQueueStep);
      const int longest = static_cast<int>(__reduce_max_sync(0xFFFFFFFFu, static_cast<unsigned>(length)));
      next_[r] = queue_begin(r);
      if (__any_sync(0xFFFFFFFFu, way_[r] == kToBins || way_[r] == kToTies)) {
        empty_queue<true>(r, length, longest, part_of(item, r));
      } else {
        empty_queue<false>(r, length, longest, part_of(item, r));
      }
    }
  }
  template <bool kHasBins>
  __device__ void empty_queue(int r, int length, int longest, std::uint32_t* part) {
#pragma unroll 1
    for (int i = 0; i < longest; i += kBatch) {
      float s[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) s[j] = this->shared_.queued[i + j][r][threadIdx.x - 128];
      if (kHasBins && way_[r] != kToList) {
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
          if (i + j >= length) continue;
          if (!(s[j] <= most_[r])) {
            ++over_[r];
          } else if (way_[r] == kToBins) {
            count_in_bin(s[j], part - lane() % 4 * kPartWords);
          }
        }
        continue;
      }
      const std::uint32_t begin = min(length_[r], std::uint32_t{kPartKeys - kBatch});
      std::uint32_t end = begin;
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        asm volatile(
            "{.reg .pred counts, over, in; .reg .b64 to; setp.lt.s32 counts, %2, %3;"
            "setp.gtu.and.f32 over|in, %4, %5, counts; @over add.u32 %0, %0, 1;"
            "mad.wide.u32 to, %1, 4, %6; @in st.global.f32 [to], %4; @in add.u32 %1, %1, 1;}"
            : "+r"(over_[r]), "+r"(end)
            : "r"(i + j), "r"(length), "f"(s[j]), "f"(most_[r]), "l"(part)
            : "memory");
      }
      if (end > begin) length_[r] = length_[r] > kPartKeys - kBatch ? kFull : end;
    }
  }
  __device__ void count_in_bin(float s, std::uint32_t* words) {
    const SearchRow& row = p_.rows[(words - p_.words) / kListWords];
    const std::int32_t ordered = ordered_bits(__fmul_rn(s, p_.attend.scale_log2));
    const std::uint32_t offset = static_cast<std::uint32_t>(ordered) - static_cast<std::uint32_t>(row.low);
    atomicAdd(words + (offset >> row.shift), 1u);
  }

  /// Keys of the score whose positions are looked for are few.
  __device__ void take_ties(const WorkItem& item, const Scores& s, std::int64_t start, const int (&first)[2],
                            const int (&last)[2]) {
    bool any = false;
#pragma unroll
    for (int i = 0; i < kScores; ++i) any = any || (s[i] >= least_[i / 2 % 2] && s[i] <= most_[i / 2 % 2]);
    if (__any_sync(0xFFFFFFFFu, any)) record<true>(item, s, start, first, last);
  }

  /// Any row, any phase; or the keys of rows' ties alone.
  template <bool kTiesAlone>
  __device__ void record(const WorkItem& item, const Scores& s, std::int64_t start, const int (&first)[2],
                         const int (&last)[2]) {
    float kept[kScores];  // in local memory, so that the loop need not be unrolled
#pragma unroll
    for (int i = 0; i < kScores; ++i) kept[i] = s[i];
#pragma unroll 1
    for (int i = 0; i < kScores; ++i) {
      const int r = i / 2 % 2;
      const int key = key_of(i, i % 2);
      const std::int32_t ordered = ordered_bits(__fmul_rn(kept[i], p_.attend.scale_log2));
      if (key < (r == 0 ? first[0] : first[1]) || key > (r == 0 ? last[0] : last[1])) continue;
      if (kTiesAlone && (r == 0 ? way_[0] : way_[1]) != kToTies) continue;
      const std::int64_t at = this->stream_row(item, r);
      const SearchRow& row = p_.rows[at];
      if (row.phase == kExact || ordered < row.low || (kTiesAlone && ordered > row.high)) continue;
      std::uint32_t over = 1;
      if (ordered <= row.high) {
        const std::int64_t position = p_.attend.first_key + (start + key) * p_.key_step;
        over = record_key(&row, words_of(item, r), part_of(item, r), kept[i], ordered, position);
      }
      if (r == 0) {
        over_[0] += over;
      } else {
        over_[1] += over;
      }
    }
  }

  __device__ void finish(const WorkItem& item) {
    empty_queues(item);
    if (kAdds) weights_.close();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      std::uint32_t over = over_[r];
      over += __shfl_xor_sync(0xFFFFFFFFu, over, 1);
      over += __shfl_xor_sync(0xFFFFFFFFu, over, 2);
      if (!this->exists(item, r)) continue;
      const std::int64_t at = this->stream_row(item, r);
      if (over > 0 && lane() % 4 == 0) p_.rows[at].over += over;
      if (!plain_ && way_[r] == kToList) part_of(item, r)[kPartKeys] = length_[r] < kFull ? length_[r] : kOverflowed;
      if (kAdds && lane() % 4 == 0) {
        p_.attend.first[at] = weights_.first(r);
        p_.attend.sum[at] = weights_.sum(r);
      }
    }
  }

  enum Way { kNoWay, kToList, kToBins, kToTies };
  static constexpr std::uint32_t kFull = kPartKeys + 1;  ///< length of a part that has overflowed
  static constexpr int kGroup = 16;  ///< keys of a row that are queued before it is looked whether they fit
  static constexpr int kBatch = 4;
  static constexpr std::uint32_t kQueueStep = sizeof(CountTiles<Shape>::queued[0]);
  static_assert(kQueueDepth % kBatch == 0 && kGroup <= kQueueDepth / 2);

  int first_[2], last_[2];       ///< keys that the rows see
  float least_[2], most_[2];     ///< the range, in scores as they are
  std::uint32_t next_[2];        ///< where the lane's queues go on
  std::uint32_t over_[2];
  std::uint32_t length_[2];      ///< of the lane's part of a list
  Way way_[2];                   ///< of keys in the range
  bool plain_, has_ties_;
  SoftmaxWeights<0> weights_;
};

/// Guesses each row's range from a few keys, kept in registers: their quantile, and four standard deviations of its rank
/// to both sides. Decides nothing but the number of rounds.
template <typename Shape, typename Element>
class SampleConsumer : public ScoreWalk<Shape, Element> {
  using Walk = ScoreWalk<Shape, Element>;
  using typename Walk::Scores;
  using Walk::kScores, Walk::lane, Walk::key_of;
  static constexpr int kTiles = kSampledKeys / Shape::kKeys;

 public:
  using Walk::Walk;

  __device__ void run() {
    WorkItem item;
    while (this->next(item)) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        if (tile < item.num_tiles) {
          this->queue(s_[tile]);
          this->template arrive<0>(s_[tile]);
        }
      }
      this->end_item();
      guess(item, 0);
      guess(item, 1);
    }
  }

 private:
  using Walk::p_;

  __device__ void guess(const WorkItem& item, int r) {
    // Keys that the row does not see stand in for those that it does where these are few.
    constexpr int kLeastSeen = 64;
    const std::int64_t row = item.row + this->row_of(r);
    const std::int64_t seen = min(last_seen(p_, row), p_.attend.num_keys - 1) - first_seen(p_, row) + 1;
    const bool sees_all = seen < kLeastSeen;
    const std::int64_t first_key = sees_all ? 0 : first_seen(p_, row);
    const std::int64_t last_key = sees_all ? p_.attend.num_keys - 1 : last_seen(p_, row);
    float least = INFINITY;
    float most = -INFINITY;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const typename Walk::TileKeys keys = this->keys_of(max(item.num_tiles - 1 - n, 0));
#pragma unroll
      for (int i = 0; i < kScores; i += 4) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& s = s_[n][i + 2 * r + e];
          const int key = key_of(i, e);
          const bool counts = n < item.num_tiles && key >= keys.begin && key < keys.end &&
                              keys.start + key >= first_key && keys.start + key <= last_key;
          least = fminf(least, counts ? s : INFINITY);
          most = fmaxf(most, counts ? s : -INFINITY);
          if (!counts) s = -INFINITY;
        }
      }
    }
    least = -quad_max(-least);
    most = quad_max(most);
    const bool exists = this->exists(item, r);
    SearchRow* state = p_.rows + (exists ? this->stream_row(item, r) : 0);
    const std::int64_t num_visible = p_.first_query + row + 1;
    const auto count = static_cast<float>(last_key - first_key + 1);
    const float share = exists ? static_cast<float>(state->wanted) / static_cast<float>(num_visible) : 0.0f;
    const float rank = share * count;
    const float spread = 4.0f * sqrtf(rank * (1.0f - share)) + 4.0f;
    float top, bottom;
    quantiles(r, least, most, rank - spread, rank + spread, top, bottom);
    const float width = fmaxf(top - bottom, 1e-6f * fmaxf(fabsf(top), fabsf(bottom)));
    const float low = (bottom - width * (rank + spread < count ? 0.02f : 1.0f)) * p_.attend.scale_log2;
    const float high = (top + width * (rank > spread ? 0.02f : 1.0f)) * p_.attend.scale_log2;
    const bool takes =
        exists && state->phase == kNarrowing && fabsf(low) < 1e30f && fabsf(high) < 1e30f;  // not where one is NaN
    __syncwarp();  // all lanes have read
    if (!takes) return;
    p_.words[this->stream_row(item, r) * kListWords + lane() % 4 * kPartWords + kPartKeys] = 0;
    if (lane() % 4 != 0) return;
    state->phase = kListed;
    state->low = ordered_of(low + 0.0f);
    state->high = ordered_of(high + 0.0f);
    state->shift = shift_for(static_cast<std::uint64_t>(std::int64_t{state->high} - std::int64_t{state->low}));
  }

  /// Scores that about `above` and `below` others are over, by bisection; all lanes take part.
  __device__ void quantiles(int r, float least, float most, float above, float below, float& top,
                            float& bottom) const {
    float top_low = least, top_high = most, bottom_low = least, bottom_high = most;
    for (int i = 0; i < 14; ++i) {
      const float top_middle = 0.5f * top_low + 0.5f * top_high;
      const float bottom_middle = 0.5f * bottom_low + 0.5f * bottom_high;
      int over_top = 0;
      int over_bottom = 0;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int j = 0; j < kScores; j += 4) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float s = s_[n][j + e + 2 * r];
            over_top += s >= top_middle ? 1 : 0;
            over_bottom += s >= bottom_middle ? 1 : 0;
          }
        }
      }
      const float total_top = quad_sum(static_cast<float>(over_top));
      const float total_bottom = quad_sum(static_cast<float>(over_bottom));
      (total_top > above ? top_low : top_high) = top_middle;
      (total_bottom > below ? bottom_low : bottom_high) = bottom_middle;
    }
    top = top_high;
    bottom = bottom_low;
  }

  Scores s_[kTiles];
};

enum class CountWork { kCount, kCountAndAdd, kSample };

template <typename Shape, typename Element, CountWork kWork>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    count_kernel(const __grid_constant__ CountParams p, const __grid_constant__ CountMaps maps) {
  extern __shared__ std::uint8_t raw[];
  auto& shared = *reinterpret_cast<CountTiles<Shape>*>(
      raw + (1024 - static_cast<std::uint32_t>(__cvta_generic_to_shared(raw)) % 1024) % 1024);
  if (threadIdx.x == 0) {
    shared.q_ring.init(4 * Shape::kConsumers);
    shared.k_ring.init(4 * Shape::kConsumers);
    ptx::fence_mbarrier_init(ptx::sem_release, ptx::scope_cluster);
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Shape::kLoaderRegisters));
    if (threadIdx.x == 0) CountLoader<Shape>(p, maps, shared).run();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Shape::kConsumerRegisters));
    if constexpr (kWork == CountWork::kSample) {
      SampleConsumer<Shape, Element>(p, shared).run();
    } else {
      CountConsumer<Shape, Element, kWork == CountWork::kCountAndAdd>(p, shared).run();
    }
  }
}

}  // namespace ringscan::cuda
