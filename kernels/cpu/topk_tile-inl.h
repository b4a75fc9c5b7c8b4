// Exact top-k of one key tile for one query tile: counting scores in bins, and softmax over the chosen ones. Both see
// the same bits of a score, since both get it from the one product.
#if defined(RINGSCAN_TOPK_TILE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGSCAN_TOPK_TILE_INL_H
#undef RINGSCAN_TOPK_TILE_INL_H
#else
#define RINGSCAN_TOPK_TILE_INL_H
#endif

#include <cstring>
#include <limits>

#include "kernels/cpu/softmax_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringscan::cpu::HWY_NAMESPACE {

using IntTag = hn::RebindToSigned<FloatTag>;
using Ints = hn::Vec<IntTag>;

/// Integers in the order of the scores: -0 counts as 0, and NaN as the largest, so that it is chosen and seen.
HWY_INLINE Ints OrderedBits(Floats x) {
  const FloatTag d;
  const IntTag di;
  const Ints bits = hn::BitCast(di, hn::Add(x, hn::Zero(d)));
  const Ints flip = hn::And(hn::ShiftRight<31>(bits), hn::Set(di, 0x7fffffff));
  const Ints ordered = hn::Xor(bits, flip);
  const auto is_nan = hn::RebindMask(di, hn::Ne(x, x));
  return hn::IfThenElse(is_nan, hn::Set(di, std::numeric_limits<std::int32_t>::max()), ordered);
}

HWY_INLINE void ScoreGroup(const TileTask& task, std::size_t group) {
  Product(task.keys, task.head_dim, round_up(task.num_keys, kRowStep),
          task.queries + group * task.head_dim * kLaneGroup, task.head_dim, StoreScores{task.scores});
}

inline void OrderScores(const TileTask& task, std::int32_t* ordered) {
  const FloatTag d;
  const IntTag di;
  for (std::size_t group = 0; group < kLaneGroups; ++group) {
    ScoreGroup(task, group);
    for (std::size_t key = 0; key < task.num_keys; ++key) {
      for (std::size_t lane = 0; lane < kLaneGroup; lane += kLanes) {
        hn::Store(OrderedBits(hn::Load(d, task.scores + key * kLaneGroup + lane)), di,
                  ordered + key * kQueryTile + group * kLaneGroup + lane);
      }
    }
  }
}

/// A score in the lane's range.
HWY_INLINE void CountOne(SearchRows& rows, std::uint32_t* bins, std::size_t lane, std::int32_t ordered,
                         std::int64_t position) {
  std::uint64_t offset = static_cast<std::uint32_t>(ordered) - static_cast<std::uint32_t>(rows.low[lane]);
  if (rows.phase[lane] == SearchRows::kTies) {
    if (position < rows.first[lane]) return;
    if (position > rows.last[lane]) {
      ++rows.over[lane];
      return;
    }
    offset = static_cast<std::uint64_t>(position - rows.first[lane]);
  }
  ++bins[(offset >> rows.shift[lane]) * kQueryTile + lane];
}

/// The scores of a lane group: those over each lane's range are counted, those in it go to their bins.
template <class Sees>
HWY_INLINE void CountScores(const TileTask& task, const Sees& sees, std::size_t first_lane, SearchRows& rows,
                            std::uint32_t* bins) {
  const FloatTag d;
  const IntTag di;
  HWY_ALIGN std::int32_t found[kLanes];
  for (std::size_t lane = first_lane; lane < first_lane + kLaneGroup; lane += kLanes) {
    const Ints low = hn::Load(di, rows.low + lane);
    const Ints high = hn::Load(di, rows.high + lane);
    Ints over = hn::Zero(di);
    for (std::size_t key = 0; key < task.num_keys; ++key) {
      const Floats x = hn::Load(d, task.scores + key * kLaneGroup + lane - first_lane);
      const Ints ordered = OrderedBits(x);
      auto is_over = hn::Gt(ordered, high);
      auto is_in = hn::AndNot(hn::Or(is_over, hn::Lt(ordered, low)), hn::Eq(ordered, ordered));
      if constexpr (!std::is_same_v<Sees, AllKeys>) {
        const auto visible = hn::RebindMask(di, sees(key, lane, x));
        is_over = hn::And(is_over, visible);
        is_in = hn::And(is_in, visible);
      }
      over = hn::Sub(over, hn::VecFromMask(di, is_over));  // a mask is -1
      if (hn::AllFalse(di, is_in)) continue;
      std::uint8_t bytes[8] = {};
      hn::StoreMaskBits(di, is_in, bytes);
      std::uint32_t lanes_in = 0;
      std::memcpy(&lanes_in, bytes, sizeof lanes_in);
      hn::Store(ordered, di, found);
      const auto position = task.first_position + static_cast<std::int64_t>(key);
      for (; lanes_in != 0; lanes_in &= lanes_in - 1) {
        const auto i = static_cast<std::size_t>(__builtin_ctz(lanes_in));
        CountOne(rows, bins, lane + i, found[i], position);
      }
    }
    hn::Store(over, di, found);
    for (std::size_t i = 0; i < kLanes; ++i) rows.over[lane + i] += found[i];
  }
}

/// sum = sum 2^(max - new max) + the tile's weights.
template <class Sees>
HWY_INLINE void AddWeights(const TileTask& task, const Sees& sees, std::size_t first_lane, const LseLanes& lanes) {
  const FloatTag d;
  HWY_ALIGN float new_max[kLaneGroup];
  HWY_ALIGN float decay[kLaneGroup];
  float* max = lanes.max + first_lane;
  for (std::size_t lane = 0; lane < kLaneGroup; lane += kLanes) hn::Store(hn::Load(d, max + lane), d, new_max + lane);
  MaskedMax<SoftmaxWeights>(task, sees, first_lane, new_max);
  RaiseMax(max, new_max, decay);
  Exponentials<SoftmaxWeights>(task, sees, first_lane, max, decay, lanes.sum + first_lane);
}

inline void CountTile(const TileTask& task, SearchRows& rows, std::uint32_t* bins, const LseLanes* all) {
  const RowMask sees(task);
  for (std::size_t group = 0; group < kLaneGroups; ++group) {
    ScoreGroup(task, group);
    if (task.masked) {
      CountScores(task, sees, group * kLaneGroup, rows, bins);
    } else {
      CountScores(task, AllKeys{}, group * kLaneGroup, rows, bins);
    }
    if (all != nullptr) AddWeights(task, sees, group * kLaneGroup, *all);
  }
}

/// Scores that are not chosen become -infinity; raises the maxima by the others.
HWY_INLINE void DropAndMax(const TileTask& task, std::size_t first_lane, const std::int32_t* low,
                           const std::int32_t* cuts, float* max) {
  const FloatTag d;
  const IntTag di;
  const RowMask sees(task);
  const Floats dropped = hn::Neg(hn::Inf(d));
  for (std::size_t lane = 0; lane < kLaneGroup; lane += kLanes) {
    const Ints threshold = hn::Load(di, low + first_lane + lane);
    const Ints cut = hn::Load(di, cuts + first_lane + lane);
    Floats highest = hn::Load(d, max + lane);
    for (std::size_t key = 0; key < task.num_keys; ++key) {
      float* score = task.scores + key * kLaneGroup + lane;
      Floats x = hn::Load(d, score);
      const Ints ordered = OrderedBits(x);
      const auto is_before_cut = hn::Gt(cut, hn::Set(di, static_cast<std::int32_t>(key)));
      const auto is_under = hn::Or(hn::Gt(threshold, ordered), hn::And(hn::Eq(threshold, ordered), is_before_cut));
      x = hn::IfThenElse(hn::RebindMask(d, is_under), dropped, x);
      if (task.masked) x = hn::IfThenElse(sees(key, first_lane + lane, x), x, dropped);
      highest = hn::Max(highest, x);
      hn::Store(x, d, score);
    }
    hn::Store(highest, d, max + lane);
  }
}

inline void ChosenTile(const TileTask& task, const std::int32_t* low, const std::int32_t* cuts, const LseLanes& lanes) {
  const FloatTag d;
  HWY_ALIGN float new_max[kLaneGroup];
  HWY_ALIGN float decay[kLaneGroup];
  for (std::size_t group = 0; group < kLaneGroups; ++group) {
    const std::size_t first_lane = group * kLaneGroup;
    float* max = lanes.max + first_lane;
    for (std::size_t lane = 0; lane < kLaneGroup; lane += kLanes) hn::Store(hn::Load(d, max + lane), d, new_max + lane);
    ScoreGroup(task, group);
    DropAndMax(task, first_lane, low, cuts, new_max);
    RaiseMax(max, new_max, decay);
    Exponentials<SoftmaxWeights>(task, NotDropped{}, first_lane, max, decay, lanes.sum + first_lane);
    Product(task.values, kKeyTile, task.out_rows, task.scores, task.num_keys,
            DecayAndAdd{lanes.out + group * task.out_rows * kLaneGroup, decay, task.first});
  }
}

}  // namespace ringscan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
