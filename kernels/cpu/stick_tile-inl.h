// Stick-breaking of one key tile for one query tile, in linear space within the tile.
#if defined(RINGSCAN_STICK_TILE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGSCAN_STICK_TILE_INL_H
#undef RINGSCAN_STICK_TILE_INL_H
#else
#define RINGSCAN_STICK_TILE_INL_H
#endif

#include "kernels/cpu/stick_math-inl.h"
#include "kernels/cpu/tile_product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringscan::cpu::HWY_NAMESPACE {

/// out = out + stick * sums: the tile's weights count from a whole stick.
struct ScaleAndAdd {
  float* out;
  const float* stick;
  bool first;  ///< the stick is whole and `out` uninitialised
  HWY_INLINE void operator()(std::size_t row, std::size_t lane, const Accumulators& sums) const {
    const FloatTag d;
    if (first) return StoreScores{out}(row, lane, sums);
    Floats factor[kTileVectors];
#pragma GCC unroll 4
    for (std::size_t c = 0; c < kTileVectors; ++c) factor[c] = hn::Load(d, stick + lane + c * kLanes);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 4
      for (std::size_t c = 0; c < kTileVectors; ++c) {
        float* to = out + (row + r) * kLaneGroup + lane + c * kLanes;
        hn::Store(hn::MulAdd(sums[r][c], factor[c], hn::Load(d, to)), d, to);
      }
    }
  }
};

/// Walks the tile near to far: scores become A, and log2_stick takes the tile in.
///   e = 2^x;  t = 1 - beta = 1 / (1 + e);  beta = e t;  A = beta left;  left = left t.
template <bool kMasked>
HWY_INLINE void BreakStick(const TileTask& task, const LaneMask& sees, std::size_t first_lane, float* log2_stick) {
  const FloatTag d;
  constexpr std::size_t kVectors = 2;
  const Floats one = hn::Set(d, 1.0f);
  for (std::size_t lane = 0; lane < kLaneGroup; lane += kVectors * kLanes) {
    Floats left[kVectors];
    Floats taken[kVectors];
    for (std::size_t c = 0; c < kVectors; ++c) {
      left[c] = one;
      taken[c] = hn::Zero(d);
    }
    for (std::size_t key = task.num_keys; key-- > 0;) {
      for (std::size_t c = 0; c < kVectors; ++c) {
        float* score = task.scores + key * kLaneGroup + lane + c * kLanes;
        // Over 2^64 nothing is left anyhow.
        Floats e = Exp2(AtMost(hn::Set(d, 64.0f), hn::Load(d, score)));
        if constexpr (kMasked) e = hn::IfThenElseZero(sees(key, first_lane + lane + c * kLanes), e);
        const Floats t = Reciprocal(hn::Add(one, e));
        const Floats weight = hn::Mul(hn::Mul(e, t), left[c]);
        left[c] = hn::Mul(left[c], t);
        taken[c] = hn::Add(taken[c], weight);
        hn::Store(weight, d, score);
      }
    }
    for (std::size_t c = 0; c < kVectors; ++c) {
      float* to = log2_stick + lane + c * kLanes;
      hn::Store(hn::Add(hn::Load(d, to), Log2Left(taken[c], left[c])), d, to);
    }
  }
}

void StickTile(const TileTask& task, const StickLanes& lanes) {
  const FloatTag d;
  const LaneMask sees{task.first_lane, task.last_lane};
  HWY_ALIGN float stick[kLaneGroup];
  for (std::size_t group = 0; group < kLaneGroups; ++group) {
    const std::size_t first_lane = group * kLaneGroup;
    float* log2_stick = lanes.log2_stick + first_lane;
    for (std::size_t lane = 0; lane < kLaneGroup; lane += kLanes) {
      hn::Store(Exp2(hn::Load(d, log2_stick + lane)), d, stick + lane);
    }
    Product(task.keys, task.head_dim, round_up(task.num_keys, kRowStep),
            task.queries + group * task.head_dim * kLaneGroup, task.head_dim, StoreScores{task.scores});
    if (task.masked) {
      BreakStick<true>(task, sees, first_lane, log2_stick);
    } else {
      BreakStick<false>(task, sees, first_lane, log2_stick);
    }
    Product(task.values, kKeyTile, task.out_rows, task.scores, task.num_keys,
            ScaleAndAdd{lanes.out + group * task.out_rows * kLaneGroup, stick, task.first});
  }
}

/// out = out_near + 2^(s_near) out_far; s = s_near + s_far, to twice the precision (Knuth's TwoSum).
void JoinStick(const StickLanes& near, const StickLanes& far, std::size_t out_rows) {
  const FloatTag d;
  for (std::size_t lane = 0; lane < kQueryTile; lane += kLanes) {
    const Floats a = hn::Load(d, near.log2_stick + lane);
    const Floats b = hn::Load(d, far.log2_stick + lane);
    const Floats stick = Exp2(a);
    const Floats rounded = hn::Add(a, b);
    const Floats b_part = hn::Sub(rounded, a);
    const Floats a_part = hn::Sub(rounded, b_part);
    const Floats error = hn::Add(hn::Sub(a, a_part), hn::Sub(b, b_part));
    const Floats low = hn::Add(hn::Load(d, near.log2_stick_low + lane), hn::Load(d, far.log2_stick_low + lane));
    const Floats low_part = hn::Add(error, low);
    const Floats high = hn::Add(rounded, low_part);
    hn::Store(high, d, near.log2_stick + lane);
    hn::Store(hn::Sub(low_part, hn::Sub(high, rounded)), d, near.log2_stick_low + lane);
    const std::size_t at = (lane / kLaneGroup) * out_rows * kLaneGroup + lane % kLaneGroup;
    for (std::size_t row = 0; row < out_rows; ++row) {
      float* to = near.out + at + row * kLaneGroup;
      hn::Store(hn::MulAdd(hn::Load(d, far.out + at + row * kLaneGroup), stick, hn::Load(d, to)), d, to);
    }
  }
}

}  // namespace ringscan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
