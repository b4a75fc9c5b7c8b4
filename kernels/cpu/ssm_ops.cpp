#include "kernels/cpu/ssm_ops.hpp"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/ssm_ops.cpp"
#include "kernels/cpu/simd_targets.hpp"
//
#include "hwy/foreach_target.h"
//
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/cpu/silu-inl.h"
#include "kernels/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringscan::cpu::HWY_NAMESPACE {

/// 2^x - 1 for x <= 0, to about 5e-7 of itself; -1 far below. A decay near 1 would lose in rounding what makes it
/// differ from 1, and a state that forgets slowly would add that up: h + h (2^x - 1) does not.
///   2^x - 1 = 2^k (2^f - 1) + (2^k - 1), k the nearest integer; adding 1.5 2^23 leaves it in the low bits.
/// N of them side by side, step by step: one alone is a chain that a processor cannot look far enough beyond.
template <std::size_t N>
HWY_INLINE void DecayLess1(Floats (&x)[N]) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const Floats one = hn::Set(d, 1.0f);
  const Floats magic = hn::Set(d, 12582912.0f);
  const Floats coefficients[4] = {hn::Set(d, 9.666245425e-03f), hn::Set(d, 5.550500214e-02f),
                                  hn::Set(d, 2.402235134e-01f), hn::Set(d, 6.931471435e-01f)};
  Floats power[N], q[N];
#pragma GCC unroll 8
  for (std::size_t i = 0; i < N; ++i) x[i] = AtLeast(hn::Set(d, -126.0f), x[i]);
#pragma GCC unroll 8
  for (std::size_t i = 0; i < N; ++i) power[i] = hn::Add(x[i], magic);
#pragma GCC unroll 8
  for (std::size_t i = 0; i < N; ++i) x[i] = hn::Sub(x[i], hn::Sub(power[i], magic));
#pragma GCC unroll 8
  for (std::size_t i = 0; i < N; ++i) q[i] = hn::MulAdd(hn::Set(d, 1.333353869e-03f), x[i], coefficients[0]);
#pragma GCC unroll 8
  for (std::size_t i = 0; i < N; ++i) {
    power[i] = hn::BitCast(d, hn::Add(hn::BitCast(di, one), hn::ShiftLeft<23>(hn::BitCast(di, power[i]))));
  }
#pragma GCC unroll 3
  for (std::size_t degree = 1; degree < 4; ++degree) {
#pragma GCC unroll 8
    for (std::size_t i = 0; i < N; ++i) q[i] = hn::MulAdd(q[i], x[i], coefficients[degree]);
  }
#pragma GCC unroll 8
  for (std::size_t i = 0; i < N; ++i) x[i] = hn::MulAdd(hn::Mul(power[i], x[i]), q[i], hn::Sub(power[i], one));
}

/// log(1 + y) for 0 <= y <= 1 as 2 atanh(s), s = y / (2 + y) <= 1/3: s (2 + s^2 p(s^2)).
HWY_INLINE Floats Log1pOf(Floats y) {
  const FloatTag d;
  const Floats s = hn::Mul(y, Reciprocal(hn::Add(y, hn::Set(d, 2.0f))));
  const Floats r = hn::Mul(s, s);
  Floats p = hn::MulAdd(hn::Set(d, 2.685149802e-01f), r, hn::Set(d, 2.823661981e-01f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.000756064e-01f));
  p = hn::MulAdd(p, r, hn::Set(d, 6.666664034e-01f));
  return hn::MulAdd(hn::Mul(s, r), p, hn::Add(s, s));
}

/// log(1 + e^x), x itself above 20.
HWY_INLINE Floats SoftplusOf(Floats x) {
  const FloatTag d;
  const Floats tail = Log1pOf(ExpMinusAbs(x));
  const Floats positive = AtLeast(hn::Zero(d), x);
  return hn::IfThenElse(hn::Gt(x, hn::Set(d, 20.0f)), x, hn::Add(positive, tail));
}

/// One compensated addition (Kahan 1965); returns the sum.
HWY_INLINE Floats AddCompensated(Floats x, float* high, float* low) {
  const FloatTag d;
  const Floats old = hn::LoadU(d, high);
  const Floats wanted = hn::Sub(x, hn::LoadU(d, low));
  const Floats sum = hn::Add(old, wanted);
  hn::StoreU(hn::Sub(hn::Sub(sum, old), wanted), d, low);
  hn::StoreU(sum, d, high);
  return sum;
}

/// What a token needs of each channel before its states are walked: the latencies of these functions would stand in the
/// way of every walk.
struct TokenRow {
  HWY_ALIGN float delta[kSsmChannels];
  HWY_ALIGN float gate[kSsmChannels];
};

HWY_INLINE void PrepareRow(const ScanBlock& block, std::size_t t, TokenRow& row) {
  const FloatTag d;
  const float* delta = block.delta.data + t * block.delta.stride;
  for (std::size_t i = 0; i < block.channels; i += kLanes) {
    hn::Store(SoftplusOf(hn::Add(hn::LoadU(d, delta + i), hn::LoadU(d, block.bias + i))), d, row.delta + i);
  }
  const float* z = block.z.data + t * block.z.stride;
  for (std::size_t i = 0; block.z.data != nullptr && i < block.channels; i += kLanes) {
    hn::Store(SiluOf(hn::LoadU(d, z + i)), d, row.gate + i);
  }
}

HWY_INLINE Floats Gated(const ScanBlock& block, const TokenRow& row, std::size_t i, Floats y) {
  const FloatTag d;
  return block.z.data == nullptr ? y : hn::Mul(y, hn::Load(d, row.gate + i));
}

/// N states of the lanes in hand: h takes one token's step, and y what it gives.
template <std::size_t N>
HWY_INLINE void ScanStates(float* HWY_RESTRICT states, const float* HWY_RESTRICT b, const float* HWY_RESTRICT c,
                           Floats delta, Floats input, Floats& y) {
  const FloatTag d;
  Floats less1[N];
#pragma GCC unroll 8
  for (std::size_t i = 0; i < N; ++i) less1[i] = hn::Mul(delta, hn::LoadU(d, states + 2 * i * kSsmLanes));
  DecayLess1(less1);
#pragma GCC unroll 8
  for (std::size_t i = 0; i < N; ++i) {
    float* h = states + (2 * i + 1) * kSsmLanes;
    const Floats old = hn::LoadU(d, h);
    const Floats fresh = hn::Add(old, hn::MulAdd(old, less1[i], hn::Mul(input, hn::Set(d, b[i]))));
    hn::StoreU(fresh, d, h);
    y = hn::MulAdd(fresh, hn::Set(d, c[i]), y);
  }
}

HWY_INLINE float* StatesAt(const ScanBlock& block, std::size_t channel) {
  return block.states + channel / kSsmLanes * (2 * block.d_state * kSsmLanes) + channel % kSsmLanes;
}

/// Rows of another token are on their way while this one computes.
HWY_INLINE void FetchAhead(const ScanBlock& block, std::size_t t, std::size_t i) {
  constexpr std::size_t kTokensAhead = 4;
  const std::size_t then = std::min(t + kTokensAhead, block.last_token);
  for (const ScanRows* rows : {&block.u, &block.delta, &block.z}) {
    if (rows->data != nullptr) hwy::Prefetch(rows->data + then * rows->stride + i);
  }
  hwy::Prefetch(block.y + then * block.y_stride + i);
}

void Scan(const ScanBlock& block, const DeltaSums& sums) {
  const FloatTag d;
  constexpr std::size_t kAtOnce = 8;
  TokenRow row;
  for (std::size_t t = 0; t < block.tokens; ++t) {
    PrepareRow(block, t, row);
    const float* b = block.b + t * block.d_state;
    const float* c = block.c + t * block.d_state;
    for (std::size_t i = 0; i < block.channels; i += kLanes) {
      FetchAhead(block, t, i);
      const Floats u = hn::LoadU(d, block.u.data + t * block.u.stride + i);
      const Floats delta = hn::Load(d, row.delta + i);
      AddCompensated(delta, sums.high + i, sums.low + i);
      const Floats input = hn::Mul(delta, u);
      Floats y = hn::Mul(hn::LoadU(d, block.d + i), u);
      float* states = StatesAt(block, i);
      std::size_t n = 0;
      for (; n + kAtOnce <= block.d_state; n += kAtOnce) {
        ScanStates<kAtOnce>(states + 2 * n * kSsmLanes, b + n, c + n, delta, input, y);
      }
      for (; n < block.d_state; ++n) ScanStates<1>(states + 2 * n * kSsmLanes, b + n, c + n, delta, input, y);
      hn::StoreU(Gated(block, row, i, y), d, block.y + t * block.y_stride + i);
    }
  }
}

bool Incoming(const ScanBlock& block, const float* a_slowest, const DeltaSums& sums) {
  const FloatTag d;
  const Floats nothing = hn::Set(d, -64.0f);
  bool any = false;
  for (std::size_t i = 0; i < block.channels && !any; i += kLanes) {
    const Floats decay = hn::Mul(hn::LoadU(d, a_slowest + i), hn::LoadU(d, sums.high + i));
    any = !hn::AllTrue(d, hn::Lt(decay, nothing));
  }
  TokenRow row;
  for (std::size_t t = 0; any && t < block.tokens; ++t) {
    PrepareRow(block, t, row);
    const float* HWY_RESTRICT c = block.c + t * block.d_state;
    for (std::size_t i = 0; i < block.channels; i += kLanes) {
      const Floats sum = AddCompensated(hn::Load(d, row.delta + i), sums.high + i, sums.low + i);
      const float* HWY_RESTRICT states = StatesAt(block, i);
      Floats y = hn::Zero(d);
      for (std::size_t n = 0; n < block.d_state; ++n) {
        const Floats decay = Exp2(hn::Mul(hn::LoadU(d, states + 2 * n * kSsmLanes), sum));
        const Floats left = hn::Mul(decay, hn::LoadU(d, states + (2 * n + 1) * kSsmLanes));
        y = hn::MulAdd(left, hn::Set(d, c[n]), y);
      }
      float* to = block.y + t * block.y_stride + i;
      hn::StoreU(hn::Add(hn::LoadU(d, to), Gated(block, row, i, y)), d, to);
    }
  }
  return any;
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

/// As the loop over states has them: arguments step on and results are added up.
double RunDecays(std::int64_t rounds, float* sink) {
  const FloatTag d;
  constexpr std::size_t kAtOnce = 4;
  const Floats step = hn::Set(d, -1e-4f);
  Floats next[kAtOnce], sums[kAtOnce];
#pragma GCC unroll 4
  for (std::size_t i = 0; i < kAtOnce; ++i) {
    next[i] = hn::Set(d, *sink * static_cast<float>(i + 1));
    sums[i] = hn::Zero(d);
  }
  for (std::int64_t round = 0; round < rounds; ++round) {
    Floats x[kAtOnce];
#pragma GCC unroll 4
    for (std::size_t i = 0; i < kAtOnce; ++i) x[i] = next[i] = hn::Add(next[i], step);
    DecayLess1(x);
#pragma GCC unroll 4
    for (std::size_t i = 0; i < kAtOnce; ++i) sums[i] = hn::Add(sums[i], x[i]);
  }
  Floats total = sums[0];
#pragma GCC unroll 4
  for (std::size_t i = 1; i < kAtOnce; ++i) total = hn::Add(total, sums[i]);
  *sink = hn::GetLane(total);
  return static_cast<double>(rounds) * static_cast<double>(kAtOnce * hn::Lanes(d));
}

const SsmOps& ScanOps() {
  static constexpr SsmOps kOps{Scan, Incoming, ConvRow, RunDecays};
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
