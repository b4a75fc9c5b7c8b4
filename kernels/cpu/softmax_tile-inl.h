// Softmax and cog of one key tile for one query tile, with a running maximum.
#if defined(RINGSCAN_SOFTMAX_TILE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGSCAN_SOFTMAX_TILE_INL_H
#undef RINGSCAN_SOFTMAX_TILE_INL_H
#else
#define RINGSCAN_SOFTMAX_TILE_INL_H
#endif

#include <type_traits>

#include "kernels/cpu/tile_product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringscan::cpu::HWY_NAMESPACE {

/// Which lanes see a key: a band, and where given each lane's first key.
struct RowMask {
  explicit RowMask(const TileTask& task) : band{task.first_lane, task.last_lane}, first_keys(task.first_keys) {}
  HWY_INLINE hn::Mask<FloatTag> operator()(std::size_t key, std::size_t lane, Floats) const {
    const FloatTag d;
    const auto in_band = band(key, lane);
    if (first_keys == nullptr) return in_band;
    return hn::And(in_band, hn::Ge(hn::Set(d, static_cast<float>(key)), hn::Load(d, first_keys + lane)));
  }
  LaneMask band;
  const float* first_keys;
};
/// No mask.
struct AllKeys {};
/// Dropped scores have been made -infinity; NaN stays.
struct NotDropped {
  HWY_INLINE hn::Mask<FloatTag> operator()(std::size_t, std::size_t, Floats x) const {
    return hn::Ne(x, hn::Neg(hn::Inf(FloatTag())));
  }
};

/// What the maximum and the sum are over, and what a score x weighs, with p = 2^(magnitude(x) - max).
struct SoftmaxWeights {
  static HWY_INLINE Floats Magnitude(Floats x) { return x; }
  static HWY_INLINE Floats Weight(Floats, Floats p) { return p; }
};
/// cog: the sign is the score's; 0 has no weight, but counts in the sum.
struct CogWeights {
  static HWY_INLINE Floats Magnitude(Floats x) { return hn::Abs(x); }
  static HWY_INLINE Floats Weight(Floats x, Floats p) {
    const FloatTag d;
    return hn::IfThenZeroElse(hn::Eq(x, hn::Zero(d)), hn::CopySign(p, x));
  }
};

/// Keeps scores^T and raises the running maxima while they are in registers. Whether Max lets a NaN through does not
/// matter: its own exponential carries it on.
template <class Weights>
struct StoreScoresAndMax {
  float* scores;
  float* max;
  HWY_INLINE void operator()(std::size_t row, std::size_t lane, const Accumulators& sums) const {
    const FloatTag d;
    StoreScores{scores}(row, lane, sums);
#pragma GCC unroll 4
    for (std::size_t c = 0; c < kTileVectors; ++c) {
      Floats highest = hn::Load(d, max + lane + c * kLanes);
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kTileRows; ++r) highest = hn::Max(highest, Weights::Magnitude(sums[r][c]));
      hn::Store(highest, d, max + lane + c * kLanes);
    }
  }
};

/// out = out * decay + sums: the decay corrects for a maximum that grew, and is exactly 1 where it did not.
struct DecayAndAdd {
  float* out;
  const float* decay;
  bool first;
  HWY_INLINE void operator()(std::size_t row, std::size_t lane, const Accumulators& sums) const {
    const FloatTag d;
    Floats factor[kTileVectors];
#pragma GCC unroll 4
    for (std::size_t c = 0; c < kTileVectors; ++c) factor[c] = hn::Load(d, decay + lane + c * kLanes);
    if (first) return StoreScores{out}(row, lane, sums);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 4
      for (std::size_t c = 0; c < kTileVectors; ++c) {
        float* to = out + (row + r) * kLaneGroup + lane + c * kLanes;
        hn::Store(hn::MulAdd(hn::Load(d, to), factor[c], sums[r][c]), d, to);
      }
    }
  }
};

/// Raises the maxima by the visible scores.
template <class Weights>
HWY_INLINE void MaskedMax(const TileTask& task, const RowMask& sees, std::size_t first_lane, float* max) {
  const FloatTag d;
  for (std::size_t lane = 0; lane < kLaneGroup; lane += kLanes) {
    Floats highest = hn::Load(d, max + lane);
    for (std::size_t key = 0; key < task.num_keys; ++key) {
      const Floats x = Weights::Magnitude(hn::Load(d, task.scores + key * kLaneGroup + lane));
      highest = hn::Max(highest, hn::IfThenElse(sees(key, first_lane + lane, x), x, highest));
    }
    hn::Store(highest, d, max + lane);
  }
}

/// Scores become weights; sum = sum * decay + the sum of p = 2^(magnitude - max) over the tile.
template <class Weights, class Sees>
HWY_INLINE void Exponentials(const TileTask& task, const Sees& sees, std::size_t first_lane, const float* max,
                             const float* decay, float* sum) {
  const FloatTag d;
  constexpr std::size_t kVectors = 2;
  for (std::size_t lane = 0; lane < kLaneGroup; lane += kVectors * kLanes) {
    Floats highest[kVectors];
    Floats total[kVectors];
    for (std::size_t c = 0; c < kVectors; ++c) {
      highest[c] = hn::Load(d, max + lane + c * kLanes);
      total[c] = hn::Zero(d);
    }
    for (std::size_t key = 0; key < task.num_keys; ++key) {
      for (std::size_t c = 0; c < kVectors; ++c) {
        float* score = task.scores + key * kLaneGroup + lane + c * kLanes;
        const Floats x = hn::Load(d, score);
        Floats p = Exp2(hn::Sub(Weights::Magnitude(x), highest[c]));
        if constexpr (!std::is_same_v<Sees, AllKeys>) {
          p = hn::IfThenElseZero(sees(key, first_lane + lane + c * kLanes, x), p);
        }
        total[c] = hn::Add(total[c], p);
        hn::Store(Weights::Weight(x, p), d, score);
      }
    }
    for (std::size_t c = 0; c < kVectors; ++c) {
      float* to = sum + lane + c * kLanes;
      hn::Store(hn::MulAdd(hn::Load(d, to), hn::Load(d, decay + lane + c * kLanes), total[c]), d, to);
    }
  }
}

/// decay = 2^(max - new_max); max = new_max.
HWY_INLINE void RaiseMax(float* max, const float* new_max, float* decay) {
  const FloatTag d;
  for (std::size_t lane = 0; lane < kLaneGroup; lane += kLanes) {
    const Floats raised = hn::Load(d, new_max + lane);
    hn::Store(Exp2(hn::Sub(hn::Load(d, max + lane), raised)), d, decay + lane);
    hn::Store(raised, d, max + lane);
  }
}

template <class Weights>
HWY_INLINE void WeighTile(const TileTask& task, const LseLanes& lanes) {
  const FloatTag d;
  const RowMask sees(task);
  const std::size_t key_rows = round_up(task.num_keys, kRowStep);
  // Rows that only fill a panel must not raise the maximum.
  const bool masked = task.masked || key_rows != task.num_keys;
  HWY_ALIGN float new_max[kLaneGroup];
  HWY_ALIGN float decay[kLaneGroup];
  for (std::size_t group = 0; group < kLaneGroups; ++group) {
    const std::size_t first_lane = group * kLaneGroup;
    const float* queries = task.queries + group * task.head_dim * kLaneGroup;
    float* max = lanes.max + first_lane;
    float* sum = lanes.sum + first_lane;
    for (std::size_t lane = 0; lane < kLaneGroup; lane += kLanes) hn::Store(hn::Load(d, max + lane), d, new_max + lane);

    if (masked) {
      Product(task.keys, task.head_dim, key_rows, queries, task.head_dim, StoreScores{task.scores});
      MaskedMax<Weights>(task, sees, first_lane, new_max);
      RaiseMax(max, new_max, decay);
      Exponentials<Weights>(task, sees, first_lane, max, decay, sum);
    } else {
      Product(task.keys, task.head_dim, key_rows, queries, task.head_dim,
              StoreScoresAndMax<Weights>{task.scores, new_max});
      RaiseMax(max, new_max, decay);
      Exponentials<Weights>(task, AllKeys{}, first_lane, max, decay, sum);
    }
    Product(task.values, kKeyTile, task.out_rows, task.scores, task.num_keys,
            DecayAndAdd{lanes.out + group * task.out_rows * kLaneGroup, decay, task.first});
  }
}

void SoftmaxTile(const TileTask& task, const LseLanes& lanes) {
  WeighTile<SoftmaxWeights>(task, lanes);
}

void CogTile(const TileTask& task, const LseLanes& lanes) {
  WeighTile<CogWeights>(task, lanes);
}

/// m = max(m1, m2); sum and out are weighted by 2^(m1 - m) and 2^(m2 - m).
void JoinLse(const LseLanes& near, const LseLanes& far, std::size_t out_rows) {
  const FloatTag d;
  for (std::size_t lane = 0; lane < kQueryTile; lane += kLanes) {
    const Floats near_max = hn::Load(d, near.max + lane);
    const Floats far_max = hn::Load(d, far.max + lane);
    const Floats max = hn::Max(near_max, far_max);
    const Floats near_weight = Exp2(hn::Sub(near_max, max));
    const Floats far_weight = Exp2(hn::Sub(far_max, max));
    const Floats far_sum = hn::Mul(hn::Load(d, far.sum + lane), far_weight);
    hn::Store(hn::MulAdd(hn::Load(d, near.sum + lane), near_weight, far_sum), d, near.sum + lane);
    hn::Store(max, d, near.max + lane);
    const std::size_t at = (lane / kLaneGroup) * out_rows * kLaneGroup + lane % kLaneGroup;
    for (std::size_t row = 0; row < out_rows; ++row) {
      float* to = near.out + at + row * kLaneGroup;
      const Floats far_out = hn::Mul(hn::Load(d, far.out + at + row * kLaneGroup), far_weight);
      hn::Store(hn::MulAdd(hn::Load(d, to), near_weight, far_out), d, to);
    }
  }
}

}  // namespace ringscan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
