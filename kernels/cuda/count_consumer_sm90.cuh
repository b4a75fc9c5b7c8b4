#pragma once
// A round of counting of exact top-k on Hopper: one warpgroup takes its tile's scores while the others' are multiplied.
//
// A score costs six instructions: those over their row's range are counted, those in it go, by a predicated store, to a
// queue that the lane has in shared memory for each of its two rows. Queues that fill up are emptied four keys at a time
// into the row's list, of which each of the four lanes that share the row has a part of its own, so that nothing has to
// be agreed; or, slowly, into its bins.

#include "kernels/cuda/score_order.cuh"
#include "kernels/cuda/score_walk_sm90.cuh"
#include "kernels/cuda/search.hpp"
#include "kernels/cuda/softmax_weights_sm90.cuh"

namespace ringscan::cuda {

/// What counts rarely and slowly: bins, positions, and lists of rows that the fast way does not take. Returns what is to
/// be added to the keys over the range. `list`: the lane's part.
static __device__ std::uint32_t record_key(const SearchRow* row, std::uint32_t* words, std::uint32_t* list, float score,
                                           std::int32_t ordered, std::int64_t position) {
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
    if (length < kPartKeys) list[length] = listed;
    if (length != kUnknown) list[kPartKeys] = length + 1;
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

  /// The row's, whose part of a list the lane has.
  __device__ static std::uint32_t* words_of(std::uint32_t* part) { return part - lane() % 4 * kPartWords; }

  __device__ void begin(const WorkItem& item) {
    bool plain = false;
    SearchRow rows[2];
    std::uint32_t lengths[2] = {0, 0};
#pragma unroll
    for (int r = 0; r < 2; ++r) {  // all that is read, at once
      rows[r].phase = kExact;
      part_[r] = p_.words + this->stream_row(item, r) * kListWords + lane() % 4 * kPartWords;
      if (!this->exists(item, r)) continue;
      rows[r] = p_.rows[this->stream_row(item, r)];
      lengths[r] = part_[r][kPartKeys];
    }
    whole_begin_ = 0;
    whole_end_ = static_cast<int>(p_.attend.num_keys / Shape::kKeys);
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
        whole_begin_ = max(whole_begin_, (first_[r] + Shape::kKeys - 1) / Shape::kKeys);
        whole_end_ = min(whole_end_, (last_[r] + 1) / Shape::kKeys);
      }
      least_[r] = most_[r] = INFINITY;  // what is queued or counted all the same is not read
      over_[r] = 0;
      length_[r] = 0;
      way_[r] = kNoWay;
      next_[r] = queue_begin(r);
      if (rows[r].phase != kExact) plain = plain || !take_fast(r, rows[r], lengths[r]);
      if (kAdds) {
        weights_.begin(r);
        weights_.carry_in(r, exists ? p_.attend.first[at] : -INFINITY, exists ? p_.attend.sum[at] : 0.0f);
      }
    }
    whole_begin_ = __reduce_max_sync(0xFFFFFFFFu, whole_begin_);
    whole_end_ = __reduce_min_sync(0xFFFFFFFFu, whole_end_);
    has_ties_ = __any_sync(0xFFFFFFFFu, way_[0] == kToTies || way_[1] == kToTies);
    plain_ = __shfl_sync(0xFFFFFFFFu, all_of_warpgroup(!plain, 1 + this->warpgroup_) ? 0 : 1, 0) != 0;
  }

  /// The range in scores as they are. False where it has no end that a score which is not seen lies under.
  __device__ bool take_fast(int r, const SearchRow& row, std::uint32_t length) {
    const float least = least_factor(score_of(row.low), p_.attend.scale_log2, false);
    const float over = least_factor(score_of(row.high), p_.attend.scale_log2, true);
    if (!(least > -INFINITY && over <= INFINITY)) return false;
    least_[r] = least;
    most_[r] = score_of(ordered_of(over) - 1);
    way_[r] = row.phase == kListed                              ? kToList
              : row.phase == kTies || row.phase == kListedTies ? kToTies
                                                               : kToBins;
    if (way_[r] == kToList) go_on_with(r, length);
    return true;
  }
  /// Lists are written in pieces: what an earlier launch left behind the last whole one is queued again.
  __device__ void go_on_with(int r, std::uint32_t length) {
    length_[r] = min(length, kUnknown / 2);
    if (length > kPartKeys) return;
    length_[r] -= length % kPiece;
    for (std::uint32_t i = 0; i < length % kPiece; ++i) queued(r, i) = __uint_as_float(part_[r][length_[r] + i]);
    next_[r] += length % kPiece * kQueueStep;
  }

  /// Address in shared memory.
  __device__ std::uint32_t queue_begin(int r) const {
    return static_cast<std::uint32_t>(
        __cvta_generic_to_shared(&this->shared_.queued[0][r][threadIdx.x - 128]));
  }
  __device__ float& queued(int r, std::uint32_t i) { return this->shared_.queued[i][r][threadIdx.x - 128]; }

  /// The other warpgroups' tiles are multiplied while this one takes its scores.
  __device__ void walk(const WorkItem& item) {
    Scores s;
    for (std::int32_t tile = item.first_tile + item.num_tiles - 1; tile >= item.first_tile; --tile) {
      this->queue(s);
      this->arrive(s);
      if (plain_) {
        take<true>(item, s, tile);
      } else {
        take<false>(item, s, tile);
      }
    }
  }

  template <bool kPlain>
  __device__ void take(const WorkItem& item, Scores& s, std::int32_t tile) {
    if (tile < whole_begin_ || tile >= whole_end_) {
      const SeenKeys seen = seen_keys(tile);
#pragma unroll
      for (int i = 0; i < kScores; ++i) {
        const int r = i / 2 % 2;
        const int key = key_of(i, i % 2);
        if (key < seen.first[r] || key > seen.last[r]) s[i] = -INFINITY;
      }
    }
    if (kPlain) {
      record<false>(item, s, tile);
    } else {
      queue_scores(s);
      if (has_ties_) take_ties(item, s, tile);
    }
    if (kAdds) {
      const int unseen[2] = {0, 0};
      float rescale[2];
      weights_.prepare(s, p_.attend.scale_log2, rescale);
      weights_.weigh(s, p_.attend.scale_log2, unseen);
    }
  }

  /// Keys of a tile that the two rows see, in the tile's own numbers.
  struct SeenKeys {
    std::int64_t start;  ///< first key of the tile, in the run's numbers
    int first[2], last[2];
  };
  __device__ SeenKeys seen_keys(std::int32_t tile) const {
    const typename Walk::TileKeys keys = this->keys_of(tile);
    SeenKeys seen{keys.start, {0, 0}, {0, 0}};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      seen.first[r] = max(keys.begin, static_cast<int>(max(first_[r] - keys.start, std::int64_t{0})));
      seen.last[r] = static_cast<int>(min(last_[r] - keys.start, std::int64_t{keys.end - 1}));
    }
    return seen;
  }

  /// The fast way.
  __device__ void queue_scores(const Scores& s) {
#pragma unroll
    for (int group = 0; group < kScores; group += 2 * kGroup) {
      constexpr std::uint32_t kMost = (Shape::kQueueDepth - kGroup) * kQueueStep;
      const bool may_overflow = next_[0] > queue_begin(0) + kMost || next_[1] > queue_begin(1) + kMost;
      if (__any_sync(0xFFFFFFFFu, may_overflow)) empty_queues();
#pragma unroll
      for (int i = group; i < group + 2 * kGroup; i += 4) queue_four(s[i], s[i + 1], s[i + 2], s[i + 3]);
    }
  }
  /// Of ties the positions are looked for, not the scores. Such keys are few: that one was queued says that there are.
  __device__ void take_ties(const WorkItem& item, const Scores& s, std::int32_t tile) {
    bool found = false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (way_[r] != kToTies) continue;
      found = found || next_[r] != queue_begin(r);
      next_[r] = queue_begin(r);
    }
    if (__any_sync(0xFFFFFFFFu, found)) record<true>(item, s, tile);
  }
  /// Two scores of each row. NaN counts as the largest. All addresses come before the stores: one that is advanced in
  /// its own register waits for the store to have read it.
  __device__ void queue_four(float a, float b, float c, float d) {
    asm volatile(
        "{.reg .pred over, in_a, in_b, in_c, in_d; .reg .b32 step, to_a, to_b, to_c, to_d;"
        "mov.b32 to_a, %0; mov.b32 to_c, %1;"
        "setp.gtu.f32 over, %4, %10; setp.ge.and.f32 in_a, %4, %8, !over; @over add.u32 %2, %2, 1;"
        "selp.b32 step, %12, 0, in_a; add.u32 to_b, to_a, step;"
        "setp.gtu.f32 over, %6, %11; setp.ge.and.f32 in_c, %6, %9, !over; @over add.u32 %3, %3, 1;"
        "selp.b32 step, %12, 0, in_c; add.u32 to_d, to_c, step;"
        "setp.gtu.f32 over, %5, %10; setp.ge.and.f32 in_b, %5, %8, !over; @over add.u32 %2, %2, 1;"
        "selp.b32 step, %12, 0, in_b; add.u32 %0, to_b, step;"
        "setp.gtu.f32 over, %7, %11; setp.ge.and.f32 in_d, %7, %9, !over; @over add.u32 %3, %3, 1;"
        "selp.b32 step, %12, 0, in_d; add.u32 %1, to_d, step;"
        "@in_a st.shared.f32 [to_a], %4; @in_c st.shared.f32 [to_c], %6;"
        "@in_b st.shared.f32 [to_b], %5; @in_d st.shared.f32 [to_d], %7;}"
        : "+r"(next_[0]), "+r"(next_[1]), "+r"(over_[0]), "+r"(over_[1])
        : "f"(a), "f"(b), "f"(c), "f"(d), "f"(least_[0]), "f"(least_[1]), "f"(most_[0]), "f"(most_[1]),
          "n"(kQueueStep)
        : "memory");
  }
  /// But for less than a piece of what is listed. What finds no room in a list is counted.
  __device__ void empty_queues() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const std::uint32_t length = (next_[r] - queue_begin(r)) / kQueueStep;
      std::uint32_t taken = 0;
      if (way_[r] == kToList) {
#pragma unroll 1
        for (; taken + kPiece <= length; taken += kPiece, length_[r] += kPiece) {
          const float4 piece{queued(r, taken), queued(r, taken + 1), queued(r, taken + 2), queued(r, taken + 3)};
          if (length_[r] < kSureKeys) __stwb(reinterpret_cast<float4*>(part_[r] + length_[r]), piece);
        }
        for (std::uint32_t i = 0; i < kPiece - 1; ++i) {
          if (taken + i < length) queued(r, i) = queued(r, taken + i);
        }
      } else if (way_[r] != kToTies) {
#pragma unroll 1
        for (; taken < length; ++taken) {
          if (way_[r] == kToBins) count_in_bin(queued(r, taken), words_of(part_[r]));
        }
      }
      next_[r] -= taken * kQueueStep;
    }
    __syncwarp();
  }
  /// The last keys of the lane's part, and how many there are.
  __device__ void close_list(int r) {
    const std::uint32_t rest = (next_[r] - queue_begin(r)) / kQueueStep;
    for (std::uint32_t i = 0; i < rest; ++i, ++length_[r]) {
      if (length_[r] < kPartKeys) part_[r][length_[r]] = __float_as_uint(queued(r, i));
    }
    part_[r][kPartKeys] = length_[r] < kUnknown / 2 ? length_[r] : kUnknown;
  }
  __device__ void count_in_bin(float s, std::uint32_t* words) {
    const SearchRow& row = p_.rows[(words - p_.words) / kListWords];
    const std::int32_t ordered = ordered_bits(__fmul_rn(s, p_.attend.scale_log2));
    const std::uint32_t offset = static_cast<std::uint32_t>(ordered) - static_cast<std::uint32_t>(row.low);
    atomicAdd(words + (offset >> row.shift), 1u);
  }

  /// Any row, any phase; or the keys of rows' ties alone.
  template <bool kTiesAlone>
  __device__ void record(const WorkItem& item, const Scores& s, std::int32_t tile) {
    const SeenKeys seen = seen_keys(tile);
    float kept[kScores];  // in local memory, so that the loop need not be unrolled
#pragma unroll
    for (int i = 0; i < kScores; ++i) kept[i] = s[i];
#pragma unroll 1
    for (int i = 0; i < kScores; ++i) {
      const int r = i / 2 % 2;
      const int key = key_of(i, i % 2);
      const std::int32_t ordered = ordered_bits(__fmul_rn(kept[i], p_.attend.scale_log2));
      if (key < (r == 0 ? seen.first[0] : seen.first[1]) || key > (r == 0 ? seen.last[0] : seen.last[1])) continue;
      if (kTiesAlone && (r == 0 ? way_[0] : way_[1]) != kToTies) continue;
      const std::int64_t at = this->stream_row(item, r);
      const SearchRow& row = p_.rows[at];
      if (row.phase == kExact || ordered < row.low || (kTiesAlone && ordered > row.high)) continue;
      std::uint32_t over = 1;
      if (ordered <= row.high) {
        const std::int64_t position = p_.attend.first_key + (seen.start + key) * p_.key_step;
        std::uint32_t* part = r == 0 ? part_[0] : part_[1];
        over = record_key(&row, words_of(part), part, kept[i], ordered, position);
      }
      if (r == 0) {
        over_[0] += over;
      } else {
        over_[1] += over;
      }
    }
  }

  __device__ void finish(const WorkItem& item) {
    if (!plain_) empty_queues();
    if (kAdds) weights_.close();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      std::uint32_t over = over_[r];
      over += __shfl_xor_sync(0xFFFFFFFFu, over, 1);
      over += __shfl_xor_sync(0xFFFFFFFFu, over, 2);
      if (!this->exists(item, r)) continue;
      const std::int64_t at = this->stream_row(item, r);
      if (over > 0 && lane() % 4 == 0) {  // nobody else does; but this need not be waited for
        atomicAdd(reinterpret_cast<unsigned long long*>(&p_.rows[at].over), static_cast<unsigned long long>(over));
      }
      if (!plain_ && way_[r] == kToList) close_list(r);
      if (kAdds && lane() % 4 == 0) {
        p_.attend.first[at] = weights_.first(r);
        p_.attend.sum[at] = weights_.sum(r);
      }
    }
  }

  enum Way { kNoWay, kToList, kToBins, kToTies };
  static constexpr int kGroup = kScores / 4;  ///< keys of a row that are queued before it is looked again
  static constexpr std::uint32_t kPiece = 4;  ///< keys of a list that are written at once
  static constexpr std::uint32_t kQueueStep = sizeof(CountTiles<Shape>::queued[0]);
  static_assert(kScores / 2 <= Shape::kQueueDepth);  // ties stay queued to the end of a tile
  static_assert(kGroup + kPiece <= Shape::kQueueDepth && kSureKeys % kPiece == 0 && kSureKeys + kPiece > kPartKeys);

  int first_[2], last_[2];       ///< keys that the rows see
  int whole_begin_, whole_end_;  ///< tiles that all rows of the warp see the whole of
  float least_[2], most_[2];     ///< the range, in scores as they are
  std::uint32_t next_[2];        ///< where the lane's queues go on
  std::uint32_t over_[2];
  std::uint32_t* part_[2];       ///< the lane's of a list
  std::uint32_t length_[2];      ///< of that
  Way way_[2];                   ///< of keys in the range
  bool plain_, has_ties_;
  SoftmaxWeights<0> weights_;
};

}  // namespace ringscan::cuda
