#pragma once
// The selective scan (Mamba-1) on any device from sm_80 on, forward, for any number of tokens in one launch. All
// pointers are device memory, all work is queued on the caller's stream, and nothing here waits for it.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/tensor_view.hpp"
#include "kernels/ssm_kernels.hpp"

namespace ringscan::cuda {

/// What a run of tokens takes in and leaves behind. Any element type but float64; fp32 arithmetic, by the fast
/// exponential where no input is float32.
struct DeviceScan {
  ScanInputs inputs;
  const float* h_in = nullptr;  ///< [batch, channels, d_state]: the state before the first token; nullptr: 0
  float* h_out = nullptr;       ///< likewise, after the last token; nullptr: not wanted. Not h_in's memory.
  float* delta_sum = nullptr;   ///< [batch, channels]: sum over the tokens of delta after softplus; nullptr: not wanted
  MutableAnyView y;  ///< [batch, tokens, 1, channels], rounded once; data == nullptr: no output. Not u's memory.
  void* workspace = nullptr;  ///< scan_workspace_bytes(), for this launch alone until it is through
};

std::size_t scan_workspace_bytes(const ScanInputs& inputs);

/// y_t = (sum_n C_t[n] h_t[n] + D u_t) silu(z_t), h as in ssm_kernels.hpp. Without y this is the run's summary, which
/// costs little: the state after the last token is summed from there backwards, until what lies farther has decayed
/// to under 2^-64 (and is read in full only where nothing is forgotten). So ranks take summaries first, and scan with
/// the right h_in then. @pre d_state 1 .. 128; at most 2^30 tokens, 2^24 elements from one to the next. @throws
/// Error(kFailure) on a broken precondition or a CUDA error.
void scan(const DeviceScan& task, cudaStream_t stream);

/// `near` becomes the join of both, as in SsmKernels::join; near.delta_sum and far.delta_sum [batch, channels].
void join_scans(const float* a, std::int64_t batch, std::int64_t channels, std::int64_t d_state,
                const ScanSummary& near, const ScanSummary& far, cudaStream_t stream);

}  // namespace ringscan::cuda
