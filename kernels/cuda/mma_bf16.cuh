#pragma once
// A warp's matrix instruction on any device from sm_80 on: D[16, 16] += A[16, 16] B[16, 16] of bfloat16 in fp32, with
// operands from rows in shared memory that begin on multiples of 16 bytes.

#include <cuda_bf16.h>

#include <cstdint>

namespace ringscan::cuda {

/// Element i of a thread is row_of(i), column_of(i).
struct MmaSums {
  float x[8];

  __device__ static int row_of(int i) { return static_cast<int>(threadIdx.x % 32) / 4 + 8 * (i / 2 % 2); }
  __device__ static int column_of(int i) {
    return static_cast<int>(threadIdx.x % 4) * 2 + i % 2 + 8 * (i / 4);
  }
  __device__ void clear() {
#pragma unroll
    for (float& value : x) value = 0.0f;
  }
};

struct MmaOperand {
  std::uint32_t bits[4];
};

/// Four matrices of 8 x 8, a row of 16 bytes from each lane's address; transposed on the way where kTransposes.
template <bool kTransposes>
__device__ MmaOperand load_matrices(const __nv_bfloat16* row) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  MmaOperand to;
  if constexpr (kTransposes) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to.bits[0]), "=r"(to.bits[1]), "=r"(to.bits[2]), "=r"(to.bits[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to.bits[0]), "=r"(to.bits[1]), "=r"(to.bits[2]), "=r"(to.bits[3])
                 : "r"(address)
                 : "memory");
  }
  return to;
}

/// Lane l gives row l % 8 of matrix l / 8. The matrices lie one under the other first (`kDown`), or side by side first.
template <bool kTransposes, bool kDown, int kStride>
__device__ MmaOperand load_operand(const __nv_bfloat16* corner) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int first = lane / 8 % 2 * 8;
  const int second = lane / 16 * 8;
  const int row = lane % 8 + (kDown ? first : second);
  const int column = kDown ? second : first;
  return load_matrices<kTransposes>(corner + row * kStride + column);
}

/// A, where its rows lie in memory; and where its columns do.
template <int kStride>
__device__ MmaOperand load_a(const __nv_bfloat16* corner) {
  return load_operand<false, true, kStride>(corner);
}
template <int kStride>
__device__ MmaOperand load_a_of_columns(const __nv_bfloat16* corner) {
  return load_operand<true, false, kStride>(corner);
}
/// B, where its rows lie in memory; and where its columns do.
template <int kStride>
__device__ MmaOperand load_b(const __nv_bfloat16* corner) {
  return load_operand<true, true, kStride>(corner);
}
template <int kStride>
__device__ MmaOperand load_b_of_columns(const __nv_bfloat16* corner) {
  return load_operand<false, false, kStride>(corner);
}

__device__ inline void multiply_add(MmaSums& d, const MmaOperand& a, const MmaOperand& b) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float* x = d.x + 4 * half;
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])
                 : "r"(a.bits[0]), "r"(a.bits[1]), "r"(a.bits[2]), "r"(a.bits[3]), "r"(b.bits[2 * half]),
                   "r"(b.bits[2 * half + 1]));
  }
}

}  // namespace ringscan::cuda
