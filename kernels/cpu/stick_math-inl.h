// What a run of keys leaves of a stick.
#if defined(RINGSCAN_STICK_MATH_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGSCAN_STICK_MATH_INL_H
#undef RINGSCAN_STICK_MATH_INL_H
#else
#define RINGSCAN_STICK_MATH_INL_H
#endif

#include "hwy/contrib/math/math-inl.h"
#include "kernels/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringscan::cpu::HWY_NAMESPACE {

/// log2 of what a tile leaves of a stick, from `taken` = sum A and `left` = prod (1 - beta). While little is taken only
/// the sum keeps it to relative accuracy (a stick may be made of millions of tiny betas), later the product does. The
/// floor stands for nothing left, and keeps sums of logs finite.
HWY_INLINE Floats Log2Left(Floats taken, Floats left) {
  const FloatTag d;
  constexpr float kLog2e = 1.44269504f;
  const Floats floor = hn::Set(d, -150.0f);
  const Floats from_sum = hn::Mul(hn::Log1p(d, hn::Neg(hn::Min(taken, hn::Set(d, 0.75f)))), hn::Set(d, kLog2e));
  const auto is_gone = hn::Lt(left, hn::Set(d, 0x1p-125f));
  const Floats from_product = hn::IfThenElse(is_gone, floor, hn::Log2(d, left));
  const Floats log2_left = hn::IfThenElse(hn::Lt(taken, hn::Set(d, 0.5f)), from_sum, from_product);
  return hn::MulAdd(taken, hn::Zero(d), log2_left);  // NaN passes
}

}  // namespace ringscan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
