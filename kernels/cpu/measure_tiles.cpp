#include "kernels/cpu/measure_tiles.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/measure_tiles.cpp"
#include "kernels/cpu/simd_targets.hpp"
//
#include "hwy/foreach_target.h"
//
#include "hwy/highway.h"
#include "kernels/cpu/stick_math-inl.h"
#include "kernels/cpu/tile_product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringscan::cpu::HWY_NAMESPACE {

constexpr std::size_t kMostLimits = 4;

/// Scores^T of one lane group.
HWY_INLINE void Scores(const TileTask& task, std::size_t group) {
  Product(task.keys, task.head_dim, round_up(task.num_keys, kRowStep),
          task.queries + group * task.head_dim * kLaneGroup, task.head_dim, StoreScores{task.scores});
}

/// Walks the tile near to far for the lanes [lane, lane + kLanes) of a query tile, `scores` being theirs.
///   e = 2^x;  t = 1 - beta = 1 / (1 + e);  a key is met where 2^stick left >= epsilon;  left = left t.
HWY_INLINE void CountKeys(const TileTask& task, const ReachLanes& lanes, const float* scores, std::size_t lane) {
  const FloatTag d;
  const LaneMask sees{task.masked ? task.first_lane : -4096, task.masked ? task.last_lane : 4096};
  const Floats one = hn::Set(d, 1.0f);
  Floats stick = hn::Add(hn::Load(d, lanes.log2_stick + lane), hn::Load(d, lanes.block_log2_stick + lane));
  stick = hn::Add(stick, hn::Load(d, lanes.log2_stick_low + lane));
  Floats limits[kMostLimits];
  Floats keys[kMostLimits];
  for (std::size_t i = 0; i < lanes.num_epsilons; ++i) {
    // Over 1 nothing is met, however far over.
    limits[i] = Exp2(AtMost(hn::Set(d, 64.0f), hn::Sub(hn::Set(d, lanes.log2_epsilons[i]), stick)));
    keys[i] = hn::Zero(d);
  }
  Floats left = one;
  Floats taken = hn::Zero(d);
  for (std::size_t key = task.num_keys; key-- > 0;) {
    const auto visible = sees(key, lane);
    for (std::size_t i = 0; i < lanes.num_epsilons; ++i) {
      keys[i] = hn::Add(keys[i], hn::IfThenElseZero(hn::And(visible, hn::Ge(left, limits[i])), one));
    }
    const Floats x = AtMost(hn::Set(d, 64.0f), hn::Load(d, scores + key * kLaneGroup));
    const Floats e = hn::IfThenElseZero(visible, Exp2(x));
    const Floats t = Reciprocal(hn::Add(one, e));
    taken = hn::Add(taken, hn::Mul(hn::Mul(e, t), left));
    left = hn::Mul(left, t);
  }
  for (std::size_t i = 0; i < lanes.num_epsilons; ++i) hn::Store(keys[i], d, lanes.keys + i * kQueryTile + lane);
  float* to = lanes.block_log2_stick + lane;
  hn::Store(hn::Add(hn::Load(d, to), Log2Left(taken, left)), d, to);
}

void ReachTile(const TileTask& task, const ReachLanes& lanes) {
  for (std::size_t group = 0; group < kLaneGroups; ++group) {
    Scores(task, group);
    for (std::size_t lane = 0; lane < kLaneGroup; lane += kLanes) {
      CountKeys(task, lanes, task.scores + lane, group * kLaneGroup + lane);
    }
  }
}

void WeighTile(const TileTask& task, std::size_t group, const float* log2_sums) {
  const FloatTag d;
  Scores(task, group);
  for (std::size_t lane = 0; lane < kLaneGroup; lane += kLanes) {
    const Floats log2_sum = hn::Load(d, log2_sums + group * kLaneGroup + lane);
    for (std::size_t key = 0; key < task.num_keys; ++key) {
      float* score = task.scores + key * kLaneGroup + lane;
      const Floats x = AtMost(hn::Set(d, 64.0f), hn::Sub(hn::Load(d, score), log2_sum));
      hn::Store(Exp2(x), d, score);
    }
  }
}

const MeasureTileOps& MeasureOps() {
  static constexpr MeasureTileOps kOps{ReachTile, WeighTile};
  return kOps;
}

}  // namespace ringscan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringscan::cpu {

HWY_EXPORT(MeasureOps);

const MeasureTileOps& measure_tile_ops() {
  // The first call through the table only finds out what the machine has.
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  return HWY_DYNAMIC_DISPATCH(MeasureOps)();
}

}  // namespace ringscan::cpu
#endif
