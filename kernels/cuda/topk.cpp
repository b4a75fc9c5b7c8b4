#include "kernels/cuda/topk.hpp"

#include <algorithm>

#include "kernels/cuda/attend_prepare.hpp"
#include "kernels/cuda/check.hpp"
#include "kernels/cuda/count_params_sm90.hpp"
#include "kernels/cuda/tensor_map.hpp"

namespace ringscan::cuda {
namespace {

constexpr std::int64_t kSampleRows = SampleShape<128>::kRows;
std::int64_t count_rows(std::int64_t head_dim) {
  return 64 * count_warpgroups(head_dim);
}
/// A sample has one of so many keys at least, and is not made of fewer.
constexpr std::int64_t kSampleStep = 8;
constexpr std::int64_t kLeastSample = 256;

CountParams count_params(const AttendTask& task, std::int64_t rows_a_tile, const DeviceSearch& search,
                         std::uint32_t* workspace) {
  require_hopper();
  require_scores(task);
  CountParams p;
  p.attend = score_params(task, rows_a_tile, workspace);
  p.rows = search.rows;
  p.words = search.bins;
  p.open = search.open + 1;
  p.first_query = search.first_query;
  return p;
}

template <typename Launch>
void launch_with(CountParams& params, std::int64_t rows_a_tile, const AttendTask& task, cudaStream_t stream,
                 Launch&& launch) {
  check(cudaMemsetAsync(params.attend.next_item, 0, kWorkspaceBytes, stream));
  if (params.attend.num_items == 0) return;
  const std::int64_t tile = key_tile(params.attend.head_dim);
  const PaddedKeys k(task.k, tile, stream);
  params.attend.loadable_keys = k.view().shape[1];
  const CountMaps maps{query_map(task.q, static_cast<int>(rows_a_tile)),
                       permuted_key_map(k.view(), static_cast<int>(tile))};
  launch(params, maps, task.q.type, stream);
}

/// Every step-th key.
AttendTask strided(const AttendTask& task, std::int64_t step) {
  AttendTask sample = task;
  sample.k.shape[1] = ceil_div(task.k.shape[1], step);
  sample.k.strides[1] *= step;
  sample.key_run.end = sample.key_run.begin + sample.k.shape[1];
  return sample;
}

/// A few keys, whose quantiles say roughly where to look.
void guess(const AttendTask& task, const DeviceSearch& search, std::uint32_t* workspace, cudaStream_t stream) {
  const std::int64_t step = ceil_div(task.k.shape[1], kSampledKeys);
  const AttendTask sample = strided(task, step);
  CountParams p = count_params(sample, kSampleRows, search, workspace);
  p.key_step = step;
  p.takes_all = p.sees_all = true;
  launch_with(p, kSampleRows, sample, stream, launch_guess);
}

/// So many more keys that those in the range that they leave find room in a list: 7 standard deviations of a rank.
std::int64_t sample_step(std::int64_t most_kept) {
  constexpr std::int64_t kListed = 680;  // of 1,020, as its parts do not fill up evenly
  return std::clamp<std::int64_t>(kListed * kListed / (49 * std::max<std::int64_t>(1, most_kept)), 2, kSampleStep);
}

void refine(const AttendTask& task, std::int64_t most_kept, const DeviceSearch& search, std::uint32_t* workspace,
            cudaStream_t stream) {
  const std::int64_t step = sample_step(most_kept);
  const AttendTask sample = strided(task, step);
  if (sample.k.shape[1] < kLeastSample) return portable::refine_listed_rows(search, 0, 1, 0, 0, stream);
  const std::int64_t rows_a_tile = count_rows(task.q.shape[3]);
  CountParams p = count_params(sample, rows_a_tile, search, workspace);
  p.key_step = step;
  launch_with(p, rows_a_tile, sample, stream,
              [](const CountParams& params, const CountMaps& maps, ElementType type, cudaStream_t on) {
                launch_count(params, maps, type, false, on);
              });
  portable::refine_listed_rows(search, sample.key_run.begin, step, sample.k.shape[1], sample.band.min_delta, stream);
}

}  // namespace

void start_search(const AttendTask& sample, const std::int64_t* keys_kept, std::int64_t most_kept,
                  const DeviceSearch& search, std::uint32_t* workspace, cudaStream_t stream) {
  require(search.has_lists && search.scale_log2 > 0.0f, "a search on Hopper has lists");
  portable::begin_listed_rows(search, keys_kept, stream);
  if (sample.key_run.empty()) return portable::refine_listed_rows(search, 0, 1, 0, 0, stream);
  guess(sample, search, workspace, stream);
  refine(sample, most_kept, search, workspace, stream);
}

void count(const AttendTask& task, const DeviceSearch& search, const DevicePartial* all, std::uint32_t* workspace,
           cudaStream_t stream) {
  const std::int64_t rows_a_tile = count_rows(task.q.shape[3]);
  CountParams p = count_params(task, rows_a_tile, search, workspace);
  p.takes_all = search.scale_log2 == 0.0f;  // begun by the portable kernels, which keep no flags
  if (all != nullptr) {
    p.attend.first = all->first;
    p.attend.sum = all->sum;
    p.takes_all = true;
  }
  launch_with(p, rows_a_tile, task, stream,
              [&](const CountParams& params, const CountMaps& maps, ElementType type, cudaStream_t on) {
                launch_count(params, maps, type, all != nullptr, on);
              });
}

}  // namespace ringscan::cuda
