#include "kernels/cpu/chela_ops.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/chela_ops.cpp"
#include "kernels/cpu/simd_targets.hpp"
//
#include "hwy/foreach_target.h"
//
#include "hwy/highway.h"
#include "kernels/cpu/silu-inl.h"
#include "kernels/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringscan::cpu::HWY_NAMESPACE {

/// Calls body(i, load, store) for vectors of [0, count); the last, ragged one goes through a padded copy, so that an
/// element is computed alike wherever it stands.
template <typename Body>
HWY_INLINE void ForVectors(std::size_t count, const Body& body) {
  const FloatTag d;
  std::size_t i = 0;
  const auto load = [&](const float* from) { return hn::LoadU(d, from + i); };
  const auto store = [&](Floats x, float* to) { hn::StoreU(x, d, to + i); };
  for (; i + kLanes <= count; i += kLanes) body(load, store);
  if (i == count) return;
  const std::size_t rest = count - i;
  const auto load_rest = [&](const float* from) {
    float padded[kLanes] = {};
    for (std::size_t lane = 0; lane < rest; ++lane) padded[lane] = from[i + lane];
    return hn::LoadU(d, padded);
  };
  const auto store_rest = [&](Floats x, float* to) {
    float padded[kLanes];
    hn::StoreU(x, d, padded);
    for (std::size_t lane = 0; lane < rest; ++lane) to[i + lane] = padded[lane];
  };
  body(load_rest, store_rest);
}

void ConvRow(const float* const* rows, const float* weight, std::size_t width, std::size_t channels, float* out) {
  ForVectors(channels, [&](const auto& load, const auto& store) {
    Floats sum = hn::Zero(FloatTag());
    for (std::size_t k = 0; k < width; ++k) sum = hn::MulAdd(load(weight + k * channels), load(rows[k]), sum);
    store(sum, out);
  });
}

void AffineRow(const float* z, const float* factor, const float* offset, std::size_t channels, float* out) {
  ForVectors(channels,
             [&](const auto& load, const auto& store) { store(hn::MulAdd(load(factor), load(z), load(offset)), out); });
}

void Silu(float* values, std::size_t count) {
  ForVectors(count, [&](const auto& load, const auto& store) { store(SiluOf(load(values)), values); });
}

void Gate(float* values, const float* other, std::size_t count) {
  ForVectors(count,
             [&](const auto& load, const auto& store) { store(hn::Mul(SiluOf(load(values)), load(other)), values); });
}

void MultiplyComplex(float* a, const float* b, std::size_t count) {
  std::size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const FloatTag d;
  for (; i + kLanes <= count; i += kLanes) {
    Floats a_re, a_im, b_re, b_im;
    hn::LoadInterleaved2(d, a + 2 * i, a_re, a_im);
    hn::LoadInterleaved2(d, b + 2 * i, b_re, b_im);
    const Floats re = hn::NegMulAdd(a_im, b_im, hn::Mul(a_re, b_re));
    const Floats im = hn::MulAdd(a_im, b_re, hn::Mul(a_re, b_im));
    hn::StoreInterleaved2(re, im, d, a + 2 * i);
  }
#endif
  for (; i < count; ++i) {
    const float re = a[2 * i] * b[2 * i] - a[2 * i + 1] * b[2 * i + 1];
    const float im = a[2 * i] * b[2 * i + 1] + a[2 * i + 1] * b[2 * i];
    a[2 * i] = re;
    a[2 * i + 1] = im;
  }
}

const ChelaOps& BlockOps() {
  static constexpr ChelaOps kOps{ConvRow, AffineRow, Silu, Gate, MultiplyComplex};
  return kOps;
}

}  // namespace ringscan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringscan::cpu {

HWY_EXPORT(BlockOps);

const ChelaOps& chela_ops() {
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  return HWY_DYNAMIC_DISPATCH(BlockOps)();
}

}  // namespace ringscan::cpu
#endif
