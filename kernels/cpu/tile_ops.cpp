#include "kernels/cpu/tile_ops.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/tile_ops.cpp"
#include "kernels/cpu/simd_targets.hpp"
//
#include "hwy/foreach_target.h"
//
#include "hwy/highway.h"
#include "kernels/cpu/pack-inl.h"
#include "kernels/cpu/softmax_tile-inl.h"
#include "kernels/cpu/stick_tile-inl.h"
#include "kernels/cpu/topk_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringscan::cpu::HWY_NAMESPACE {

const TileOps& Ops() {
  static constexpr TileOps kOps{HWY_TARGET,  PackKeys,  PackValues, PackQueries, SoftmaxTile, CogTile,     StickTile,
                                OrderScores, CountTile, ChosenTile, JoinLse,     JoinStick,   LanesToRows, StoreRow};
  return kOps;
}

}  // namespace ringscan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringscan::cpu {

HWY_EXPORT(Ops);

const TileOps& tile_ops() {
  // The first call through the table only finds out what the machine has.
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  return HWY_DYNAMIC_DISPATCH(Ops)();
}

}  // namespace ringscan::cpu
#endif
