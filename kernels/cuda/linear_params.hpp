#pragma once
// What the host hands to the kernels of linear attention.

#include <cstdint>

#include "kernels/cuda/linear.hpp"
#include "kernels/cuda/portable_params.hpp"

namespace ringscan::cuda {

using portable::rows_in;
using portable::RowsIn;

/// The segments of a run, and where each one's summary and the state at its begin lie: [batch, slots, segments] of
/// Lambda; of S [head_dim, v_dim]; of n [head_dim].
struct LinearSegments {
  std::int64_t count = 1;
  std::int64_t tokens = 0;  ///< of each but the last; a multiple of 128
  float* log_decay = nullptr;
  float* s = nullptr;
  float* n = nullptr;  ///< nullptr: no normaliser
  float* s_begin = nullptr;
  float* n_begin = nullptr;
};

struct LinearDeviceParams {
  RowsIn q, k, v, log_decay;  ///< log_decay.data == nullptr: head_log_decay
  void* o = nullptr;
  ElementType o_type = ElementType::kFloat32;
  RowStrides o_strides;
  LinearSegments segments;
  std::int64_t tokens = 0;
  int head_dim = 0;
  int v_dim = 0;
  int num_slots = 0;
  std::int64_t batch = 0;
  float scale = 1.0f;
  bool elu1 = false;
  bool normalizes = false;
  std::uint16_t q_head[kMaxSlots];
  std::uint16_t kv_head[kMaxSlots];
  std::uint16_t decay_column[kMaxSlots];
  float head_log_decay[kMaxSlots];
};

/// e^-104 is 0 in fp32: a token that keeps less keeps nothing, and its log decay, which may be -infinity, becomes one
/// whose sums have differences.
__host__ __device__ inline float least_log_decay(float log_decay) {
  return log_decay < -104.0f ? -104.0f : log_decay;  // NaN stays
}

/// Whether the tensor cores take it: bfloat16 in 16-byte pieces, at most 128 by 128, no normaliser.
bool takes_linear_bf16(const LinearDeviceParams& params, bool output);
void launch_linear_bf16(const LinearDeviceParams& params, bool output, cudaStream_t stream);
void launch_linear_portable(const LinearDeviceParams& params, bool output, cudaStream_t stream);

}  // namespace ringscan::cuda
