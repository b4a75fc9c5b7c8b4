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
__device__ inline int quad_max(int x) {
  x = max(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
  return max(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
}

inline constexpr float kLn2 = 0.693147180559945f;
inline constexpr float kLog2E = 1.442695040888963f;

}  // namespace ringscan::cuda
