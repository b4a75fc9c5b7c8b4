#pragma once
// The special-function unit's instructions, and sums over the four lanes that share a row of scores.

namespace ringscan::cuda {

__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float quad_xor(float x, int mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, x, mask);
}
__device__ inline float quad_sum(float x) {
  x += quad_xor(x, 1);
  return x + quad_xor(x, 2);
}
__device__ inline float quad_max(float x) {
  x = fmaxf(x, quad_xor(x, 1));
  return fmaxf(x, quad_xor(x, 2));
}

/// The largest of a(i) and b(i), i < kSize, if it is not negative; else any of them. Bits of positive numbers are ordered
/// as the numbers are, and of three integers the chip finds the largest in one instruction. Four at a time are under way.
template <int kSize, typename A, typename B>
__device__ float largest_bits(A&& a, B&& b) {
  static_assert(kSize >= 4 && kSize % 4 == 0);
  int most[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) most[i] = max(__float_as_int(a(i)), __float_as_int(b(i)));
#pragma unroll
  for (int i = 4; i < kSize; ++i) most[i % 4] = __vimax3_s32(most[i % 4], __float_as_int(a(i)), __float_as_int(b(i)));
  return __int_as_float(max(__vimax3_s32(most[0], most[1], most[2]), most[3]));
}

inline constexpr float kLn2 = 0.693147180559945f;
inline constexpr float kLog2E = 1.442695040888963f;

}  // namespace ringscan::cuda
