#pragma once
// What a run of tokens does to the state of linear attention with decay, and the associative combine (shared by host
// and device code).
//   S_t = e^(g_t) S_(t-1) + k_t v_t^T  over a run is  S -> e^Lambda S + S_run,  Lambda = sum g_t.
//   far, then near:  S = e^(Lambda_near) S_far + S_near;  Lambda = Lambda_near + Lambda_far;  n like S.

#include <cmath>

#include "mechanism/partials.hpp"

namespace ringscan {

/// A factor in two floats: a constant decay near 1, rounded to one float, would be off the same way in every chunk of
/// a long sequence.
struct SplitFactor {
  float high;
  float low;

  RINGSCAN_HOST_DEVICE static SplitFactor of(double factor) {
    const auto high = static_cast<float>(factor);
    return {high, static_cast<float>(factor - static_cast<double>(high))};
  }
};

/// One element of S or n: an fp32 number and what rounding took from it, so that a million chunks add up right.
struct StateElement {
  float high = 0.0f;
  float low = 0.0f;

  /// Becomes factor * this + added. @pre compiled without contraction of a * b + c that is not written as fma.
  RINGSCAN_HOST_DEVICE void decay_and_add(SplitFactor factor, StateElement added) {
    const float product = factor.high * high;
    const float product_error = std::fma(factor.high, high, -product);
    const float sum = product + added.high;
    const float back = sum - product;
    const float sum_error = (product - (sum - back)) + (added.high - back);
    const float rest = std::fma(factor.high, low, std::fma(factor.low, high, product_error + sum_error)) + added.low;
    high = sum + rest;
    low = rest - (high - sum);
  }
};

/// The state's part that all its elements share. fp64: it is one number a head, and a sum of up to millions.
struct AffineState {
  double log_decay;  ///< Lambda, <= 0

  RINGSCAN_HOST_DEVICE static AffineState identity() { return {0.0}; }

  /// `this` lies nearer to the sequence's end than `far`, with no token between them. Becomes the join of both; returns
  /// the factor on S_far. Runs without tokens change nothing.
  RINGSCAN_HOST_DEVICE SplitFactor join_far(const AffineState& far) {
    const SplitFactor factor = SplitFactor::of(std::exp(log_decay));
    log_decay += far.log_decay;
    return factor;
  }
};

}  // namespace ringscan
