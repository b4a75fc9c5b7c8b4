#pragma once
// Exact top-k on a Hopper GPU (sm_90a): the rounds of counting, and softmax over the keys that they chose. Rows lie as
// of search.hpp, with lists, so that a row may meet some keys here and some in the portable kernels; narrow() is
// theirs.
//
// All pointers but `slots` are device memory, all work is queued on the caller's stream, and nothing here waits for it.
// `workspace`: as of DeviceAttend. Every function throws Error(kFailure) on a broken precondition or a CUDA error.

#include "kernels/cuda/attend.hpp"
#include "kernels/cuda/search.hpp"

namespace ringscan::cuda {

/// Begins a search for the keys_kept[row] (device memory, [rows]) largest scores of each row, at most `most_kept`. The
/// task's keys say where to look first, and decide nothing: they may be any, its key_run may be empty.
/// @pre of q and k as of attend(); search.has_lists and search.scale_log2 are set.
void start_search(const AttendTask& sample, const std::int64_t* keys_kept, std::int64_t most_kept,
                  const DeviceSearch& search, std::uint32_t* workspace, cudaStream_t stream);
/// One round: counts the task's keys (v is not read), and adds their weights to `all` (v_dim 0) unless that is nullptr.
void count(const AttendTask& task, const DeviceSearch& search, const DevicePartial* all, std::uint32_t* workspace,
           cudaStream_t stream);
/// Softmax over the keys that a finished search chose, in all else as the other attend()s. A key whose score is NaN is
/// always kept.
void attend(const DeviceAttend& launch, const DeviceSearch& chosen, cudaStream_t stream);

}  // namespace ringscan::cuda
