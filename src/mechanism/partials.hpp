#pragma once
// Partial results of a row over a run of keys, and their associative combines (shared by host and device code).
// The row's output vector is kept apart: combine() says with which weights the two vectors are to be added.

#include <cmath>

#if defined(__CUDACC__)
#define RINGSCAN_HOST_DEVICE __host__ __device__
#else
#define RINGSCAN_HOST_DEVICE
#endif

namespace ringscan {

/// out = far * out_far + near * out_near.
struct JoinWeights {
  float far;
  float near;
};

/// softmax, cog: maximum and sum of 2^(x - max), both in base 2 (x = z log2 e); `out` is not normalised.
///   m = max(m1, m2);  l = l1 2^(m1-m) + l2 2^(m2-m);  O likewise.
struct LsePartial {
  float max;
  float sum;

  RINGSCAN_HOST_DEVICE static LsePartial identity() { return {-INFINITY, 0.0f}; }

  /// Becomes the join of both. Commutative; a run of no keys changes nothing, and two such runs make no NaN.
  RINGSCAN_HOST_DEVICE JoinWeights join_far(const LsePartial& far) {
    if (!(far.sum > 0.0f)) return {0.0f, 1.0f};
    if (!(sum > 0.0f)) {
      *this = far;
      return {1.0f, 0.0f};
    }
    const float joined = max > far.max ? max : far.max;
    const JoinWeights weights{exp2f(far.max - joined), exp2f(max - joined)};
    sum = sum * weights.near + far.sum * weights.far;
    max = joined;
    return weights;
  }
};

/// stick-breaking: log2 of the stick that is left after the run's keys.
///   O = O_near + 2^(s_near) O_far;  s = s_near + s_far.   No division, nothing over 1.
struct StickPartial {
  float log2_stick;

  RINGSCAN_HOST_DEVICE static StickPartial identity() { return {0.0f}; }

  /// `this` lies nearer to the query than `far`, with no key between them. Becomes the join of both.
  RINGSCAN_HOST_DEVICE JoinWeights join_far(const StickPartial& far) {
    const JoinWeights weights{exp2f(log2_stick), 1.0f};
    log2_stick += far.log2_stick;
    return weights;
  }
};

}  // namespace ringscan
