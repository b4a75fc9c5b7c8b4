#pragma once
// What the attend kernel's loop asks of a mechanism's weights.

namespace ringscan::cuda {

/// As most mechanisms have it; each says what it does otherwise.
struct WeightsInterface {
  static constexpr float kNotSeen = -INFINITY;  ///< the score of a key that a row does not see
  static constexpr bool kSums = true;           ///< there is a sum of weights, which partials carry
  static constexpr bool kRescales = false;      ///< where prepare() returned true, out is multiplied by its rescale
  static constexpr bool kTakesBack = false;     ///< there, take_back() changes rounded weights
  static constexpr bool kChooses = false;       ///< choose_for() a row, then choose() among a tile's scores
  static constexpr bool kStopsEarly = false;    ///< an item may end where its rows are exhausted()
  static constexpr bool kMayOverflow = false;   ///< rows that do not fit() are left for another launch
  static constexpr bool kDoesAgain = false;     ///< can be that launch

  __device__ bool exhausted(float) const { return false; }
};

}  // namespace ringscan::cuda
