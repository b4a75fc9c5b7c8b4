#include "kernels/cpu/ssm_ops.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/ssm_ops.cpp"
#include "kernels/cpu/simd_targets.hpp"
//
#include "hwy/foreach_target.h"
//
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/cpu/silu-inl.h"
#include "kernels/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringscan::cpu::HWY_NAMESPACE {

/// 2^x - 1 for x <= 0, to about 5e-7 of itself; -1 far below. A decay near 1 would lose in rounding what makes it
/// differ from 1, and a state that forgets slowly would add that up: h + h (2^x - 1) does not.
///   2^x - 1 = 2^k (2^f - 1) + (2^k - 1), k the nearest integer; adding 1.5 2^23 leaves it in the low bits.
HWY_INLINE Floats DecayLess1(Floats x) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const Floats one = hn::Set(d, 1.0f);
  const Floats magic = hn::Set(d, 12582912.0f);
  x = AtLeast(hn::Set(d, -126.0f), x);
  const Floats shifted = hn::Add(x, magic);
  const Floats f = hn::Sub(x, hn::Sub(shifted, magic));
  Floats q = hn::MulAdd(hn::Set(d, 1.333353869e-03f), f, hn::Set(d, 9.666245425e-03f));
  q = hn::MulAdd(q, f, hn::Set(d, 5.550500214e-02f));
  q = hn::MulAdd(q, f, hn::Set(d, 2.402235134e-01f));
  q = hn::MulAdd(q, f, hn::Set(d, 6.931471435e-01f));
  const Floats power = hn::BitCast(d, hn::Add(hn::BitCast(di, one), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
  return hn::MulAdd(hn::Mul(power, f), q, hn::Sub(power, one));
}

/// log(1 + e^x), x itself above 20.
HWY_INLINE Floats SoftplusOf(Floats x) {
  const FloatTag d;
  // Both exponents are at most 0, so that nothing overflows and small results keep their digits.
  const Floats tail = hn::Log1p(d, hn::Exp(d, hn::Neg(hn::Abs(x))));
  const Floats positive = AtLeast(hn::Zero(d), x);
  return hn::IfThenElse(hn::Gt(x, hn::Set(d, 20.0f)), x, hn::Add(positive, tail));
}

void Softplus(float* delta, const float* bias, std::size_t tokens, std::size_t channels) {
  const FloatTag d;
  for (std::size_t t = 0; t < tokens; ++t) {
    float* row = delta + t * kSsmChannels;
    for (std::size_t i = 0; i < channels; i += kLanes) {
      hn::StoreU(SoftplusOf(hn::Add(hn::LoadU(d, row + i), hn::LoadU(d, bias + i))), d, row + i);
    }
  }
}

/// One compensated addition (Kahan 1965).
HWY_INLINE void AddCompensated(Floats x, Floats& high, Floats& low) {
  const Floats wanted = hn::Sub(x, low);
  const Floats sum = hn::Add(high, wanted);
  low = hn::Sub(hn::Sub(sum, high), wanted);
  high = sum;
}

void AddUp(const float* delta, std::size_t tokens, std::size_t channels, const DeltaSums& sums) {
  const FloatTag d;
  for (std::size_t i = 0; i < channels; i += kLanes) {
    Floats high = hn::LoadU(d, sums.high + i);
    Floats low = hn::LoadU(d, sums.low + i);
    for (std::size_t t = 0; t < tokens; ++t) AddCompensated(hn::LoadU(d, delta + t * kSsmChannels + i), high, low);
    hn::StoreU(high, d, sums.high + i);
    hn::StoreU(low, d, sums.low + i);
  }
}

void Scan(const ScanBlock& block, float* h) {
  const FloatTag d;
  for (std::size_t i = 0; i < block.channels; i += kLanes) {
    const Floats skip = hn::LoadU(d, block.d + i);
    float* HWY_RESTRICT lanes = block.lanes;
    for (std::size_t n = 0; n < block.d_state; ++n) {
      hn::StoreU(hn::LoadU(d, block.a_log2 + n * kSsmChannels + i), d, lanes + 2 * n * kSsmLanes);
      hn::StoreU(hn::LoadU(d, h + n * kSsmChannels + i), d, lanes + (2 * n + 1) * kSsmLanes);
    }
    for (std::size_t t = 0; t < block.tokens; ++t) {
      const Floats u = hn::LoadU(d, block.u + t * kSsmChannels + i);
      const Floats delta = hn::LoadU(d, block.delta + t * kSsmChannels + i);
      const Floats input = hn::Mul(delta, u);
      const float* HWY_RESTRICT b = block.b + t * block.d_state;
      const float* HWY_RESTRICT c = block.c + t * block.d_state;
      Floats y = hn::Mul(skip, u);
      for (std::size_t n = 0; n < block.d_state; ++n) {
        float* HWY_RESTRICT state = lanes + (2 * n + 1) * kSsmLanes;
        const Floats old = hn::LoadU(d, state);
        const Floats less1 = DecayLess1(hn::Mul(delta, hn::LoadU(d, lanes + 2 * n * kSsmLanes)));
        const Floats change = hn::MulAdd(old, less1, hn::Mul(input, hn::Set(d, b[n])));
        const Floats fresh = hn::Add(old, change);
        hn::StoreU(fresh, d, state);
        y = hn::MulAdd(fresh, hn::Set(d, c[n]), y);
      }
      hn::StoreU(y, d, block.y + t * kSsmChannels + i);
    }
    for (std::size_t n = 0; n < block.d_state; ++n) {
      hn::StoreU(hn::LoadU(d, lanes + (2 * n + 1) * kSsmLanes), d, h + n * kSsmChannels + i);
    }
  }
}

bool Incoming(const ScanBlock& block, const float* h_in, const float* a_slowest, const DeltaSums& sums) {
  const FloatTag d;
  const Floats nothing = hn::Set(d, -64.0f);
  bool any = false;
  for (std::size_t i = 0; i < block.channels && !any; i += kLanes) {
    const Floats decay = hn::Mul(hn::LoadU(d, a_slowest + i), hn::LoadU(d, sums.high + i));
    any = !hn::AllTrue(d, hn::Lt(decay, nothing));
  }
  if (!any) return false;
  for (std::size_t i = 0; i < block.channels; i += kLanes) {
    Floats high = hn::LoadU(d, sums.high + i);
    Floats low = hn::LoadU(d, sums.low + i);
    for (std::size_t t = 0; t < block.tokens; ++t) {
      AddCompensated(hn::LoadU(d, block.delta + t * kSsmChannels + i), high, low);
      const float* HWY_RESTRICT c = block.c + t * block.d_state;
      Floats y = hn::Zero(d);
      for (std::size_t n = 0; n < block.d_state; ++n) {
        const Floats decay = Exp2(hn::Mul(hn::LoadU(d, block.a_log2 + n * kSsmChannels + i), high));
        const Floats left = hn::Mul(decay, hn::LoadU(d, h_in + n * kSsmChannels + i));
        y = hn::MulAdd(left, hn::Set(d, c[n]), y);
      }
      hn::StoreU(y, d, block.y + t * kSsmChannels + i);
    }
    hn::StoreU(high, d, sums.high + i);
    hn::StoreU(low, d, sums.low + i);
  }
  return true;
}

void Gate(float* y, const float* z, std::size_t tokens, std::size_t channels) {
  const FloatTag d;
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t i = t * kSsmChannels; i < t * kSsmChannels + channels; i += kLanes) {
      hn::StoreU(hn::Mul(hn::LoadU(d, y + i), SiluOf(hn::LoadU(d, z + i))), d, y + i);
    }
  }
}

void ConvRow(const float* const* rows, const float* weight, const float* bias, std::size_t width, std::size_t channels,
             float* out) {
  const FloatTag d;
  std::size_t i = 0;
  for (; i + kLanes <= channels; i += kLanes) {
    Floats sum = hn::LoadU(d, bias + i);
    for (std::size_t k = 0; k < width; ++k) {
      sum = hn::MulAdd(hn::LoadU(d, weight + k * channels + i), hn::LoadU(d, rows[k] + i), sum);
    }
    hn::StoreU(SiluOf(sum), d, out + i);
  }
  if (i == channels) return;
  float padded[kSsmLanes] = {};
  const std::size_t rest = channels - i;
  for (std::size_t lane = 0; lane < rest; ++lane) padded[lane] = bias[i + lane];
  Floats sum = hn::LoadU(d, padded);
  for (std::size_t k = 0; k < width; ++k) {
    float taps[kSsmLanes] = {};
    float inputs[kSsmLanes] = {};
    for (std::size_t lane = 0; lane < rest; ++lane) {
      taps[lane] = weight[k * channels + i + lane];
      inputs[lane] = rows[k][i + lane];
    }
    sum = hn::MulAdd(hn::LoadU(d, taps), hn::LoadU(d, inputs), sum);
  }
  hn::StoreU(SiluOf(sum), d, padded);
  for (std::size_t lane = 0; lane < rest; ++lane) out[i + lane] = padded[lane];
}

/// Independent of each other, as the loop over states has them: arguments step on and results are added up.
double RunDecays(std::int64_t rounds, float* sink) {
  const FloatTag d;
  constexpr std::size_t kChains = 4;
  const Floats step = hn::Set(d, -1e-4f);
  Floats x[kChains];
  Floats sums[kChains];
#pragma GCC unroll 4
  for (std::size_t i = 0; i < kChains; ++i) {
    x[i] = hn::Set(d, *sink * static_cast<float>(i + 1));
    sums[i] = hn::Zero(d);
  }
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 4
    for (std::size_t i = 0; i < kChains; ++i) {
      sums[i] = hn::Add(sums[i], DecayLess1(x[i]));
      x[i] = hn::Add(x[i], step);
    }
  }
  Floats total = sums[0];
#pragma GCC unroll 4
  for (std::size_t i = 1; i < kChains; ++i) total = hn::Add(total, sums[i]);
  *sink = hn::GetLane(total);
  return static_cast<double>(rounds) * static_cast<double>(kChains * hn::Lanes(d));
}

const SsmOps& ScanOps() {
  static constexpr SsmOps kOps{Softplus, AddUp, Scan, Incoming, Gate, ConvRow, RunDecays};
  return kOps;
}

}  // namespace ringscan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringscan::cpu {

HWY_EXPORT(ScanOps);

const SsmOps& ssm_ops() {
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  return HWY_DYNAMIC_DISPATCH(ScanOps)();
}

}  // namespace ringscan::cpu
#endif
