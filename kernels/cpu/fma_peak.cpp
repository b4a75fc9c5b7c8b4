#include "kernels/cpu/fma_peak.hpp"

#include "core/stopwatch.hpp"

#include <cstddef>
#include <cstdint>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/fma_peak.cpp"
#include "kernels/cpu/simd_targets.hpp"
//
#include "hwy/foreach_target.h"
//
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace ringscan::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Runs `rounds` rounds of 12 independent chains: enough for two units of latency 4 to 5, few enough for 16 registers.
/// Returns the floating-point operations; `sink` keeps the compiler from dropping them.
double RunFmas(std::int64_t rounds, float* sink) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  constexpr std::size_t kChains = 12;
  const V factor = hn::Set(d, 0.999f);
  const V addend = hn::Set(d, *sink);
  V sums[kChains];
#pragma GCC unroll 12
  for (std::size_t i = 0; i < kChains; ++i) sums[i] = hn::Set(d, static_cast<float>(i));
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (std::size_t i = 0; i < kChains; ++i) sums[i] = hn::MulAdd(sums[i], factor, addend);
  }
  V total = sums[0];
#pragma GCC unroll 12
  for (std::size_t i = 1; i < kChains; ++i) total = hn::Add(total, sums[i]);
  *sink = hn::GetLane(total);
  return static_cast<double>(rounds) * 2.0 * static_cast<double>(kChains * hn::Lanes(d));
}

}  // namespace ringscan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringscan {
namespace cpu {

HWY_EXPORT(RunFmas);

static double run_fmas(std::int64_t rounds, float* sink) {
  return HWY_DYNAMIC_DISPATCH(RunFmas)(rounds, sink);
}

}  // namespace cpu

double measure_fma_peak_gflops(double seconds) {
  constexpr std::int64_t kRounds = 1 << 16;
  double flops = 0.0;
  const ThreadStopwatch watch;
  double elapsed = 0.0;
  do {
    float sink = 1.0f;
    flops += cpu::run_fmas(kRounds, &sink);
    elapsed = watch.seconds();
  } while (elapsed < seconds);
  return flops / elapsed * 1e-9;
}

}  // namespace ringscan
#endif
