// Vector types and the elementary functions of the inner loops.
#if defined(RINGSCAN_SIMD_MATH_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGSCAN_SIMD_MATH_INL_H
#undef RINGSCAN_SIMD_MATH_INL_H
#else
#define RINGSCAN_SIMD_MATH_INL_H
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace ringscan::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using Floats = hn::Vec<FloatTag>;
constexpr std::size_t kLanes = HWY_LANES(float);

/// max(floor, x) and min(cap, x), but NaN where x is NaN: so do x86's instructions with the operands in this order.
HWY_INLINE Floats AtLeast(Floats floor, Floats x) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR
  return hn::Max(floor, x);
#else
  return hn::IfThenElse(hn::Lt(x, floor), floor, x);
#endif
}
HWY_INLINE Floats AtMost(Floats cap, Floats x) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR
  return hn::Min(cap, x);
#else
  return hn::IfThenElse(hn::Gt(x, cap), cap, x);
#endif
}

/// 2^x to about 1 ulp; exactly 1 at 0; 0 or next to nothing far below; NaN for NaN. @pre x < 127.
HWY_INLINE Floats Exp2(Floats x) {
  const FloatTag d;
#if HWY_TARGET <= HWY_AVX3
  // 2^x = 2^floor(x) 2^f, 0 <= f <= 1, the second by a minimax polynomial (relative error 8.2e-8).
  const Floats f{_mm512_reduce_ps(x.raw, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
  Floats p = hn::MulAdd(hn::Set(d, 1.867130072e-03f), f, hn::Set(d, 9.017030316e-03f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.579991311e-02f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.401644502e-01f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.931513118e-01f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  return Floats{_mm512_scalef_ps(p.raw, x.raw)};
#else
  // As above with |f| <= 1/2 (relative error 2.6e-9). Adding 1.5 2^23 leaves the nearest integer in the low bits.
  const hn::RebindToSigned<FloatTag> di;
  const Floats magic = hn::Set(d, 12582912.0f);
  x = AtLeast(hn::Set(d, -126.0f), x);
  const Floats shifted = hn::Add(x, magic);
  const Floats f = hn::Sub(x, hn::Sub(shifted, magic));
  Floats p = hn::MulAdd(hn::Set(d, 1.559467759e-04f), f, hn::Set(d, 1.340664391e-03f));
  p = hn::MulAdd(p, f, hn::Set(d, 9.617692975e-03f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.550310551e-02f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.402265278e-01f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.931472150e-01f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
#endif
}

/// 1 / x to about 1 ulp, exactly 1 at 1. @pre 1 <= x < 2^100, or NaN.
HWY_INLINE Floats Reciprocal(Floats x) {
  const FloatTag d;
#if HWY_TARGET <= HWY_AVX3
  // 14 bits and one Newton step; a division would take three times as long.
  const Floats estimate{_mm512_rcp14_ps(x.raw)};
  const Floats error = hn::NegMulAdd(x, estimate, hn::Set(d, 1.0f));
  return hn::MulAdd(estimate, error, estimate);
#else
  return hn::Div(hn::Set(d, 1.0f), x);
#endif
}

}  // namespace ringscan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
