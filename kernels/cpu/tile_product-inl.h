// The product of panels and lane rows, held in registers.
#if defined(RINGSCAN_TILE_PRODUCT_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGSCAN_TILE_PRODUCT_INL_H
#undef RINGSCAN_TILE_PRODUCT_INL_H
#else
#define RINGSCAN_TILE_PRODUCT_INL_H
#endif

#include "kernels/cpu/simd_math-inl.h"
#include "kernels/cpu/tile_ops.hpp"

HWY_BEFORE_NAMESPACE();
namespace ringscan::cpu::HWY_NAMESPACE {

// Accumulators: rows times vectors of lanes. They take half the registers or so; what is left holds the operands.
#if HWY_TARGET <= HWY_AVX3
constexpr std::size_t kTileRows = 8, kTileVectors = 2;  // 16 of 32 registers
#elif HWY_ARCH_ARM
constexpr std::size_t kTileRows = 4, kTileVectors = 4;  // 16 of 32
#else
constexpr std::size_t kTileRows = 4, kTileVectors = 2;  // 8 of 16
#endif
constexpr std::size_t kTileLanes = kTileVectors * kLanes;
static_assert(kLaneGroup % kTileLanes == 0 && kRowStep % kTileRows == 0 && kTileRows % kPanel == 0);

using Accumulators = Floats[kTileRows][kTileVectors];

/// sums[r][c] += sum over p < depth of panels[r / 4][p][r % 4] * lanes[p][c]; panels are 4 * depth_stride floats apart.
HWY_INLINE void MultiplyAdd(const float* HWY_RESTRICT panels, std::size_t depth_stride, const float* HWY_RESTRICT lanes,
                            std::size_t depth, Accumulators& sums) {
  const FloatTag d;
  for (std::size_t p = 0; p < depth; ++p) {
    Floats x[kTileVectors];
#pragma GCC unroll 4
    for (std::size_t c = 0; c < kTileVectors; ++c) x[c] = hn::Load(d, lanes + p * kLaneGroup + c * kLanes);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kTileRows; ++r) {
      const float* weight = panels + (r / kPanel) * kPanel * depth_stride + p * kPanel + r % kPanel;
      const Floats w = hn::Set(d, *weight);
#pragma GCC unroll 4
      for (std::size_t c = 0; c < kTileVectors; ++c) sums[r][c] = hn::MulAdd(w, x[c], sums[r][c]);
    }
  }
}

/// As MultiplyAdd, from zero.
HWY_INLINE void Multiply(const float* HWY_RESTRICT panels, std::size_t depth_stride, const float* HWY_RESTRICT lanes,
                         std::size_t depth, Accumulators& sums) {
  const FloatTag d;
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 4
    for (std::size_t c = 0; c < kTileVectors; ++c) sums[r][c] = hn::Zero(d);
  }
  MultiplyAdd(panels, depth_stride, lanes, depth, sums);
}

/// Calls store(row, lane, sums) for all rows of the panels (a multiple of kRowStep) and all lanes of a group.
template <class Store>
HWY_INLINE void Product(const float* panels, std::size_t depth_stride, std::size_t num_rows, const float* lanes,
                        std::size_t depth, const Store& store) {
  for (std::size_t row = 0; row < num_rows; row += kTileRows) {
    for (std::size_t lane = 0; lane < kLaneGroup; lane += kTileLanes) {
      Accumulators sums;
      Multiply(panels + row * depth_stride, depth_stride, lanes + lane, depth, sums);
      store(row, lane, sums);
    }
  }
}

/// Keeps scores^T as they are.
struct StoreScores {
  float* scores;
  HWY_INLINE void operator()(std::size_t row, std::size_t lane, const Accumulators& sums) const {
    const FloatTag d;
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 4
      for (std::size_t c = 0; c < kTileVectors; ++c) {
        hn::Store(sums[r][c], d, scores + (row + r) * kLaneGroup + lane + c * kLanes);
      }
    }
  }
};

/// Which lanes see a key of a masked tile.
struct LaneMask {
  int first_lane;
  int last_lane;
  HWY_INLINE hn::Mask<FloatTag> operator()(std::size_t key, std::size_t lane) const {
    const FloatTag d;
    const Floats lanes = hn::Iota(d, static_cast<float>(lane));
    const auto r = static_cast<int>(key);
    return hn::And(hn::Ge(lanes, hn::Set(d, static_cast<float>(first_lane + r))),
                   hn::Le(lanes, hn::Set(d, static_cast<float>(last_lane + r))));
  }
};

}  // namespace ringscan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
