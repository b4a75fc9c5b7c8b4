#pragma once
// The warpgroup's matrix instruction: D[64, N] += A[64, 16] B[16, N] in fp32, N = 64 or 128, of bf16 or fp16.
// B (and A of the _ss form) lie in shared memory in columns of 64 elements (128 bytes), as TMA's 128-byte swizzle
// leaves them. Accumulators of a thread: d[4 j + 2 r + e] is row 16 warp + lane / 4 + 8 r, column 8 j + 2 (lane % 4) +
// e.

#include <cstdint>
#include <type_traits>

namespace ringscan::cuda {

struct Bf16 {
  /// `low` in the low half, each rounded to nearest even.
  static __device__ std::uint32_t pack(float low, float high) {
    std::uint32_t bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
  }
};
struct Fp16 {
  static __device__ std::uint32_t pack(float low, float high) {
    std::uint32_t bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
  }
};

/// Registers written by other instructions are seen by the matrix instructions that follow.
__device__ inline void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// All but the `kPending` groups committed last are through.
template <int kPending>
__device__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Keeps the compiler from moving uses of accumulators over a wait.
template <int kSize>
__device__ void pin(float (&d)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
/// Keeps registers that matrix instructions read from being taken for something else before a wait.
template <int kSize>
__device__ void pin(std::uint32_t (&d)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

/// A value that is the same in all lanes of a warp, in a uniform register, where descriptors have to be: ptxas keeps
/// there what has been reduced, and what follows from it.
__device__ inline int uniform(int x) {
  return __reduce_max_sync(0xFFFFFFFFu, x);
}

/// A shared-memory matrix of 128-byte rows, swizzled; @pre the tile begins on a multiple of 1024 bytes.
/// `column_stride`: bytes between blocks of 64 columns, read only where the rows are the summed dimension.
__device__ inline std::uint64_t matrix_descriptor(const void* shared, int column_stride) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62;
  constexpr std::uint64_t kEightRows = std::uint64_t{1024 >> 4} << 32;
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  return kSwizzle128 | kEightRows | (static_cast<std::uint64_t>(column_stride >> 4) << 16) | ((address & 0x3FFFF) >> 4);
}
/// The same matrix `bytes` further on.
__device__ inline std::uint64_t advance(std::uint64_t descriptor, int bytes) {
  return descriptor + static_cast<std::uint64_t>(bytes >> 4);
}

#define RINGSCAN_D8(i)                                                                                        \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define RINGSCAN_D32(i) RINGSCAN_D8(i), RINGSCAN_D8(i + 8), RINGSCAN_D8(i + 16), RINGSCAN_D8(i + 24)
#define RINGSCAN_NAMES32                                                                                               \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30," \
  "%31"
#define RINGSCAN_NAMES64                                                                                               \
  RINGSCAN_NAMES32                                                                                                     \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%" \
  "60,%61,%62,%63"
// "p" is false for the first product, which overwrites D.
#define RINGSCAN_SS(N, TYPE, NAMES, A, B, P, ...)                                                                     \
  asm volatile("{.reg .pred p; setp.ne.b32 p, " P ", 0; wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE \
               " {" NAMES "}, " A ", " B ", p, 1, 1, 0, 0;}"                                                          \
               : __VA_ARGS__                                                                                          \
               : "l"(a), "l"(b), "r"(accumulate))
#define RINGSCAN_RS(N, TYPE, NAMES, A, B, ...)                                                            \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " {" NAMES "}, {" A "}, " B \
               ", 1, 1, 1, 1;"                                                                            \
               : __VA_ARGS__                                                                              \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

/// D = A B^T (+ D): both K-major in shared memory. N = 2 * size of D.
template <typename Element, int kSize>
__device__ void wgmma_ss(float (&d)[kSize], std::uint64_t a, std::uint64_t b, int accumulate) {
  static_assert(kSize == 32 || kSize == 64);
  constexpr bool kBf16 = std::is_same_v<Element, Bf16>;
  if constexpr (kSize == 64 && kBf16) {
    RINGSCAN_SS("128", "bf16", RINGSCAN_NAMES64, "%64", "%65", "%66", RINGSCAN_D32(0), RINGSCAN_D32(32));
  } else if constexpr (kSize == 64) {
    RINGSCAN_SS("128", "f16", RINGSCAN_NAMES64, "%64", "%65", "%66", RINGSCAN_D32(0), RINGSCAN_D32(32));
  } else if constexpr (kBf16) {
    RINGSCAN_SS("64", "bf16", RINGSCAN_NAMES32, "%32", "%33", "%34", RINGSCAN_D32(0));
  } else {
    RINGSCAN_SS("64", "f16", RINGSCAN_NAMES32, "%32", "%33", "%34", RINGSCAN_D32(0));
  }
}

/// D += A B: A in registers, B's rows (the summed dimension) one after the other in shared memory.
template <typename Element, int kSize>
__device__ void wgmma_rs(float (&d)[kSize], const std::uint32_t* a, std::uint64_t b) {
  static_assert(kSize == 32 || kSize == 64);
  constexpr bool kBf16 = std::is_same_v<Element, Bf16>;
  if constexpr (kSize == 64 && kBf16) {
    RINGSCAN_RS("128", "bf16", RINGSCAN_NAMES64, "%64,%65,%66,%67", "%68", RINGSCAN_D32(0), RINGSCAN_D32(32));
  } else if constexpr (kSize == 64) {
    RINGSCAN_RS("128", "f16", RINGSCAN_NAMES64, "%64,%65,%66,%67", "%68", RINGSCAN_D32(0), RINGSCAN_D32(32));
  } else if constexpr (kBf16) {
    RINGSCAN_RS("64", "bf16", RINGSCAN_NAMES32, "%32,%33,%34,%35", "%36", RINGSCAN_D32(0));
  } else {
    RINGSCAN_RS("64", "f16", RINGSCAN_NAMES32, "%32,%33,%34,%35", "%36", RINGSCAN_D32(0));
  }
}

#undef RINGSCAN_D8
#undef RINGSCAN_D32
#undef RINGSCAN_NAMES32
#undef RINGSCAN_NAMES64
#undef RINGSCAN_SS
#undef RINGSCAN_RS

/// S = Q K^T of a warpgroup's 64 rows, queued: its queries begin at `queries`, the tile's keys at `keys`, both in blocks of 64
/// columns. Attend and a search of top-k see the same bits because both multiply here.
template <typename Shape, typename Element, int kSize>
__device__ void multiply_queries(float (&s)[kSize], const void* queries, const void* keys) {
  const std::uint64_t q = matrix_descriptor(queries, 16);
  const std::uint64_t k = matrix_descriptor(keys, 16);
#pragma unroll
  for (int d = 0; d < Shape::kHeadDim; d += 16) {
    const int block = d / 64;
    const int within = d % 64 * 2;
    wgmma_ss<Element>(s, advance(q, block * Shape::kRows * 128 + within),
                      advance(k, block * Shape::kKeys * 128 + within), d > 0);
  }
}

}  // namespace ringscan::cuda
