// x / (1 + e^-x) in lanes.
#if defined(RINGSCAN_SILU_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGSCAN_SILU_INL_H
#undef RINGSCAN_SILU_INL_H
#else
#define RINGSCAN_SILU_INL_H
#endif

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringscan::cpu::HWY_NAMESPACE {

/// x / (1 + e^-x).
HWY_INLINE Floats SiluOf(Floats x) {
  const FloatTag d;
  const Floats small = hn::Exp(d, hn::Neg(hn::Abs(x)));
  const Floats one = hn::Set(d, 1.0f);
  const Floats numerator = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), small, one);
  return hn::Mul(x, hn::Div(numerator, hn::Add(one, small)));
}

}  // namespace ringscan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
