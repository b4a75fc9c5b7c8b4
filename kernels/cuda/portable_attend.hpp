#pragma once
// Ring mechanisms on any device from sm_80 on, right but slower than the Hopper kernels of attend.hpp: plain fp32
// arithmetic, q, k and v of float32, bfloat16 or float16 (q may differ from k and v), head_dim and v_dim 1 .. 256
// (v_dim 0 where only weights are summed), any strides, bands and growing windows, exact top-k. Partials are those of
// attend.hpp, so a row may meet some keys there and some here; join() and finish() serve both.
//
// All views, partials and lists are device memory, `slots` is host memory; all work is queued on the caller's stream
// and nothing here waits for it. Every function throws Error(kFailure) on a broken precondition or a CUDA error.
// Buffers of a size zero may be nullptr; empty runs of keys or queries are allowed.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/tensor_view.hpp"
#include "kernels/cuda/attend.hpp"
#include "kernels/cuda/search.hpp"
#include "kernels/kernels.hpp"

namespace ringscan::cuda::portable {

/// Query rows and keys of a tile: what tiles are counted in, and where rows stop early together.
inline constexpr std::int64_t kQueryTile = 64;
inline constexpr std::int64_t kKeyTile = 64;

/// Adds launch.task's keys to launch.partial (which begins at the identity where launch.starts). @pre !launch.finishes:
/// finish() writes rows. As of attend.hpp, but that
///   - launch.workspace may be nullptr; else [1] becomes the 64 x 64 tiles that were computed;
///   - task.max_deltas, where not empty, is device memory [query_run.size()];
///   - at most 256 slots. Keys are walked near first in tiles that begin on multiples of 64, counted from
///     key_run.begin.
void attend(const DeviceAttend& launch, const SoftmaxParams& params, cudaStream_t stream);
void attend(const DeviceAttend& launch, const CogParams& params, cudaStream_t stream);
void attend(const DeviceAttend& launch, const StickBreakingParams& params, cudaStream_t stream);

/// Partials at the identity.
void reset_softmax(const DevicePartial& partial, cudaStream_t stream);
void reset_stick_breaking(const DevicePartial& partial, cudaStream_t stream);

/// Stick-breaking: *open (device memory) becomes the number of rows of which more than epsilon is left. 0: no key can
/// change any row by more than epsilon. With epsilon 0 all rows are open.
void count_open_rows(const DevicePartial& partial, double epsilon, std::uint32_t* open, cudaStream_t stream);

/// `near` becomes the join of both; the same queries, adjoining keys. @pre equal shapes.
void join_softmax(const DevicePartial& near, const DevicePartial& far, cudaStream_t stream);  ///< cog and top-k, too
void join_stick_breaking(const DevicePartial& near, const DevicePartial& far, cudaStream_t stream);
/// *near becomes the smaller of both.
void keep_fewer(std::uint32_t* near, const std::uint32_t* far, cudaStream_t stream);

/// Rounds once and writes task.o (float32, bfloat16 or float16), statistic and, where task.kept_mass is wanted, the
/// share of `all` (task.all is not read; nullptr where kept_mass is not wanted) that the rows' keys have. Softmax, cog
/// and top-k; and stick-breaking with any remainder policy, which reads task.v_own or task.remainder_value. A row that
/// saw no key gives o = 0, lse = -inf; or o = 0, remainder = 1 (drop).
void finish_softmax(const FinishTask& task, const DevicePartial& block, const DevicePartial* all, cudaStream_t stream);
void finish_stick_breaking(const FinishTask& task, const StickBreakingParams& params, const DevicePartial& block,
                           cudaStream_t stream);

// The search lies in memory as of search.hpp; without lists here.
using cuda::DeviceSearch;
using cuda::kSearchBins;
using cuda::search_bins_bytes;
using cuda::search_rows_bytes;
using cuda::SearchRow;

/// Begins a search for the keys_kept[row] (device memory, [rows]) largest scores of each row, the same for all slots
/// and batch items. sample.q, slots, query_run and scale are of the rows; the keys of sample.k (sample.key_run may be
/// empty; v is not read) say where to look first, and decide nothing. Zeroes the bins.
void start_search(const AttendTask& sample, const std::int64_t* keys_kept, const DeviceSearch& search,
                  cudaStream_t stream);
/// One round: counts the task's keys (v is not read). All keys of the rows are to be counted before narrow().
void count(const AttendTask& task, const DeviceSearch& search, cudaStream_t stream);
/// As count(), and adds the weights of the task's keys to `all`. @pre all.shape.v_dim == 0, not at its first use only
/// if reset_softmax() began it.
void count_and_add(const AttendTask& task, const DeviceSearch& search, const DevicePartial& all, cudaStream_t stream);
/// Ends a round and zeroes the bins. *search.open becomes the number of rows whose choice is not exact yet: where it
/// is 0 (read it after the stream is through), the search is over; else count all keys again.
void narrow(const DeviceSearch& search, cudaStream_t stream);
/// Exact top-k: softmax over the keys that a finished search chose. @pre as of the other attend()s; scores are computed
/// by the same operations in the same order as in count().
void attend(const DeviceAttend& launch, const DeviceSearch& chosen, cudaStream_t stream);

}  // namespace ringscan::cuda::portable
