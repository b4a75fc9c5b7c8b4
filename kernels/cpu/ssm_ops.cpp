#include "kernels/cpu/ssm_ops.hpp"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/ssm_ops.cpp"
#include "kernels/cpu/simd_targets.hpp"
//
#include "hwy/foreach_target.h"
//
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

HWY_INLINE float* StatesAt(const ScanBlock& block, std::size_t channel) {
  return block.states + channel / kSsmLanes * (2 * block.d_state * kSsmLanes) + channel % kSsmLanes;
}

/// Tokens that N states of a vector of channels walk without leaving the registers.
constexpr std::size_t kTokensAtOnce = 4;

/// Such tokens, in rows of one after another: rows as they lie in an activation are often a power of two apart, and
/// more than a few columns of those do not fit the first cache.
struct TokenTile {
  HWY_ALIGN float delta[kTokensAtOnce][kSsmChannels];
  HWY_ALIGN float input[kTokensAtOnce][kSsmChannels];  ///< delta u
  HWY_ALIGN float y[kTokensAtOnce][kSsmChannels];
};

/// Step sizes, inputs and what skips the states, row by row, and the sums of delta.
HWY_INLINE void BeginTile(const ScanBlock& block, std::size_t first_token, std::size_t tokens, const DeltaSums& sums,
                          TokenTile& tile) {
  const FloatTag d;
  for (std::size_t t = 0; t < tokens; ++t) {
    const float* HWY_RESTRICT raw = block.delta.data + (first_token + t) * block.delta.stride;
    const float* HWY_RESTRICT u_row = block.u.data + (first_token + t) * block.u.stride;
    for (std::size_t i = 0; i < block.channels; i += kLanes) {
      const Floats delta = SoftplusOf(hn::Add(hn::LoadU(d, raw + i), hn::LoadU(d, block.bias + i)));
      const Floats u = hn::LoadU(d, u_row + i);
      AddCompensated(delta, sums.high + i, sums.low + i);
      hn::Store(delta, d, tile.delta[t] + i);
      hn::Store(hn::Mul(delta, u), d, tile.input[t] + i);
      hn::Store(hn::Mul(hn::LoadU(d, block.d + i), u), d, tile.y[t] + i);
    }
  }
}

/// N states of one vector of channels take the steps of `tokens`; y takes what they give.
template <std::size_t N>
HWY_INLINE void ScanStates(const ScanBlock& block, std::size_t first_token, std::size_t tokens, std::size_t channel,
                           std::size_t n, TokenTile& tile) {
  const FloatTag d;
  constexpr std::size_t kChains = N < 4 ? N : 4;  // as many decays side by side as leave the registers their states
  float* HWY_RESTRICT states = StatesAt(block, channel) + 2 * n * kSsmLanes;
  const float* HWY_RESTRICT b = block.b + first_token * block.d_state + n;
  const float* HWY_RESTRICT c = block.c + first_token * block.d_state + n;
  Floats h[N];
#pragma GCC unroll 8
  for (std::size_t i = 0; i < N; ++i) h[i] = hn::LoadU(d, states + (2 * i + 1) * kSsmLanes);
  for (std::size_t t = 0; t < tokens; ++t, b += block.d_state, c += block.d_state) {
    const Floats delta = hn::Load(d, tile.delta[t] + channel);
    const Floats input = hn::Load(d, tile.input[t] + channel);
    Floats y = hn::Load(d, tile.y[t] + channel);
#pragma GCC unroll 8
    for (std::size_t first = 0; first < N; first += kChains) {
      Floats less1[kChains];
#pragma GCC unroll 8
      for (std::size_t i = 0; i < kChains; ++i) {
        less1[i] = hn::Mul(delta, hn::LoadU(d, states + 2 * (first + i) * kSsmLanes));
      }
      DecayLess1(less1);
#pragma GCC unroll 8
      for (std::size_t i = 0; i < kChains; ++i) {
        Floats& old = h[first + i];
        old = hn::Add(old, hn::MulAdd(old, less1[i], hn::Mul(input, hn::Set(d, b[first + i]))));
        y = hn::MulAdd(old, hn::Set(d, c[first + i]), y);
      }
    }
    hn::Store(y, d, tile.y[t] + channel);
  }
#pragma GCC unroll 8
  for (std::size_t i = 0; i < N; ++i) hn::StoreU(h[i], d, states + (2 * i + 1) * kSsmLanes);
}

/// y, gated, to where it belongs.
HWY_INLINE void EndTile(const ScanBlock& block, std::size_t first_token, std::size_t tokens, const TokenTile& tile) {
  const FloatTag d;
  for (std::size_t t = 0; t < tokens; ++t) {
    const float* HWY_RESTRICT z = block.z.data + (first_token + t) * block.z.stride;
    float* HWY_RESTRICT to = block.y + (first_token + t) * block.y_stride;
    for (std::size_t i = 0; i < block.channels; i += kLanes) {
      const Floats y = hn::Load(d, tile.y[t] + i);
      hn::StoreU(block.z.data == nullptr ? y : hn::Mul(y, SiluOf(hn::LoadU(d, z + i))), d, to + i);
    }
  }
}

/// The rows that the next tile reads are on their way to the second cache while this one computes.
HWY_INLINE void FetchAhead(const ScanBlock& block, std::size_t first_token, std::size_t channel) {
  for (std::size_t t = first_token; t < first_token + kTokensAtOnce; ++t) {
    const std::size_t then = std::min(t + kTokensAtOnce, block.last_token);
    for (const ScanRows* rows : {&block.u, &block.delta, &block.z}) {
      if (rows->data != nullptr) __builtin_prefetch(rows->data + then * rows->stride + channel, 0, 2);
    }
    __builtin_prefetch(block.y + then * block.y_stride + channel, 1, 2);
  }
}

void Scan(const ScanBlock& block, const DeltaSums& sums) {
  constexpr std::size_t kStates = 8;
  TokenTile tile;
  for (std::size_t first = 0; first < block.tokens; first += kTokensAtOnce) {
    const std::size_t tokens = std::min(kTokensAtOnce, block.tokens - first);
    BeginTile(block, first, tokens, sums, tile);
    for (std::size_t i = 0; i < block.channels; i += kLanes) {
      FetchAhead(block, first, i);
      std::size_t n = 0;
      for (; n + kStates <= block.d_state; n += kStates) ScanStates<kStates>(block, first, tokens, i, n, tile);
      for (; n < block.d_state; ++n) ScanStates<1>(block, first, tokens, i, n, tile);
    }
    EndTile(block, first, tokens, tile);
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
