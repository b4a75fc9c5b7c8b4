// x / (1 + e^-x) in lanes.
#if defined(RINGSCAN_SILU_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGSCAN_SILU_INL_H
#undef RINGSCAN_SILU_INL_H
#else
#define RINGSCAN_SILU_INL_H
#endif

#include "hwy/highway.h"
#include "kernels/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringscan::cpu::HWY_NAMESPACE {

/// e^-|x|; at most 1, so that nothing overflows.
HWY_INLINE Floats ExpMinusAbs(Floats x) {
  const FloatTag d;
  return Exp2(hn::Mul(hn::Abs(x), hn::Set(d, -1.44269504f)));
}

/// x / (1 + e^-x).
HWY_INLINE Floats SiluOf(Floats x) {
  const FloatTag d;
  const Floats small = ExpMinusAbs(x);
  const Floats one = hn::Set(d, 1.0f);
  const Floats numerator = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), small, one);
  return hn::Mul(x, hn::Mul(numerator, Reciprocal(hn::Add(one, small))));
}

}  // namespace ringscan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
