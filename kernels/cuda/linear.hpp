#pragma once
// Linear attention with decay on any device from sm_80 on, forward. A run of tokens is cut into segments; three steps,
// so that only the small state crosses ranks between them:
//
//   summarize()  what each segment does to a state                     (reads k, v and the decays)
//   carry()      the states at the segments' begins and behind the run (reads states alone)
//   output()     rows of o                                             (reads q, k, v and the decays)
//
// A rank takes its run's summary by carry() from the identity, gets the state before its run from the others, and calls
// carry() again with that, then output(). All pointers but the spans are device memory, all work is queued on the
// caller's stream, and nothing here waits for it.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/linear_kernels.hpp"
#include "mechanism/partials.hpp"

namespace ringscan::cuda {

/// The state of a run, fp32: Lambda [batch, slots], S [batch, slots, head_dim, v_dim] and, with a normaliser, n [batch,
/// slots, head_dim]; contiguous in one allocation of linear_state_bytes() so that it moves as one piece.
struct DeviceLinearState {
  LinearShape shape;
  float* data = nullptr;

  RINGSCAN_HOST_DEVICE std::int64_t streams() const { return shape.batch * shape.slots; }
  RINGSCAN_HOST_DEVICE float* log_decay() const { return data; }
  RINGSCAN_HOST_DEVICE float* s() const { return data + streams(); }
  RINGSCAN_HOST_DEVICE float* n() const {
    return shape.has_normalizer ? s() + streams() * shape.head_dim * shape.v_dim : nullptr;
  }
};
std::size_t linear_state_bytes(const LinearShape& shape);

/// Scratch of a run of `tokens` tokens, kept from summarize() to output().
std::size_t linear_workspace_bytes(const LinearShape& shape, std::int64_t tokens);

/// @pre of all: the task as of the CPU with device pointers, head_dim and v_dim 1 .. 256, at most 256 slots; `shape`
/// and the task's tokens are those of the workspace. @throws Error(kFailure) on a broken precondition or a CUDA error.
void linear_summarize(const LinearTask& task, const LinearParams& params, const LinearShape& shape, void* workspace,
                      cudaStream_t stream);
/// `from`.data == nullptr: the identity. `to` becomes the state behind the run (its Lambda: from's and the run's);
/// to.data == nullptr: not wanted. May be the same memory.
void linear_carry(const LinearShape& shape, std::int64_t tokens, void* workspace, const DeviceLinearState& from,
                  const DeviceLinearState& to, cudaStream_t stream);
/// Writes task.o, rounded once. After a linear_carry().
void linear_output(const LinearTask& task, const LinearParams& params, const LinearShape& shape, void* workspace,
                   cudaStream_t stream);

/// `near` becomes the state behind both runs: S = e^Lambda_near S_far + S_near, n likewise, Lambda the sum.
void linear_join(const DeviceLinearState& near, const DeviceLinearState& far, cudaStream_t stream);
/// `to` becomes the state behind all these runs, nearest first, whatever it is. @pre at least one, of one shape.
void linear_fold(const DeviceLinearState& to, std::span<const DeviceLinearState> runs, cudaStream_t stream);
void linear_reset(const DeviceLinearState& state, cudaStream_t stream);

}  // namespace ringscan::cuda
