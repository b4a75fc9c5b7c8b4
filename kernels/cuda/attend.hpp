#pragma once
// A run of queries meets a run of keys on a Hopper GPU (sm_90a): softmax, cog and stick-breaking, forward, growing
// windows too (task.max_deltas is device memory, then). All pointers but `slots` are device memory, all work is queued
// on the caller's stream, and nothing here waits for it.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/tensor_view.hpp"
#include "kernels/kernels.hpp"

namespace ringscan::cuda {

/// fp32 accumulators of a run of queries over the keys met so far.
struct DevicePartial {
  PartialShape shape;
  float* out = nullptr;  ///< [batch, slots, rows, v_dim], unnormalised
  /// [batch, slots, rows]. Softmax: a reference, the maximum of z log2(e) or up to 8 less (fp16: 3.75); cog: of |z|
  /// log2(e), in bf16 0 unless `sum` would exceed 2^80. Stick-breaking: log2 of what is left of the stick.
  float* first = nullptr;
  float* sum = nullptr;  ///< softmax and cog: [batch, slots, rows], sum of 2^(z log2(e) - reference)
};

/// Where finished rows go: o [batch, rows, any heads, v_dim] of the inputs' type, row q_head of each slot; the
/// statistic (lse in natural log; the remainder) [batch, rows, any heads, 1], data == nullptr: not wanted.
struct DeviceFinish {
  MutableAnyView o;
  TensorView<float> statistic;
};

/// What one launch takes in and leaves behind.
struct DeviceAttend {
  /// As of the CPU, with device pointers; key_block is not read: keys are walked near first in tiles of key_tile()
  /// that begin on multiples of it, counted from key_run.begin.
  AttendTask task;
  /// Carried in unless `starts`; carried out unless `finishes`, and then of no use. Where neither is asked for, it may
  /// be empty: no item is cut then.
  DevicePartial partial;
  bool starts = true;     ///< no key was seen before: begin at the identity
  bool finishes = false;  ///< no key follows: round once and write `finish` instead of `partial`
  DeviceFinish finish;
  /// Two zeroed or stale words in device memory, for this launch alone until it is through: the next work item, and
  /// afterwards in [1] the key tiles that were loaded.
  std::uint32_t* workspace = nullptr;
};

inline constexpr std::int64_t kWorkspaceBytes = 2 * sizeof(std::uint32_t);

/// Keys and query rows a tile holds, for a head_dim; the query rows of one tile stop early together.
std::int64_t key_tile(std::int64_t head_dim);
std::int64_t query_tile(std::int64_t head_dim);

/// Queues the task on `stream`. @pre q, k and v of one type, bfloat16 or float16; head_dim == v_dim, a multiple of 8 up
/// to 256; data and strides of q, k, v and o multiples of 16 bytes; scale > 0; at most 256 slots.
/// @throws Error(kFailure) on a broken precondition, no sm_90 device, or a CUDA error.
void attend(const DeviceAttend& launch, const SoftmaxParams& params, cudaStream_t stream);
void attend(const DeviceAttend& launch, const CogParams& params, cudaStream_t stream);
void attend(const DeviceAttend& launch, const StickBreakingParams& params, cudaStream_t stream);

}  // namespace ringscan::cuda
