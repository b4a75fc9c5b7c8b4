#include "kernels/cuda/portable_attend.hpp"

#include <cmath>
#include <limits>
#include <numbers>
#include <string>

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/portable_params.hpp"

namespace ringscan::cuda::portable {
namespace {

void require(bool holds, const std::string& wanted) {
  if (!holds) throw failure("CUDA attend: " + wanted);
}

RowsIn input_rows(const AnyView& view) {
  require(view.type != ElementType::kFloat64, "q, k and v must be float32, bfloat16 or float16");
  return rows_in(view);
}

/// What all launches share; v is not looked at.
PortableParams score_params(const AttendTask& task) {
  PortableParams p;
  const std::int64_t head_dim = task.q.shape[3];
  require(head_dim >= 1 && head_dim <= 256, "found head_dim " + std::to_string(head_dim) + ", wanted 1 .. 256");
  require(task.key_run.empty() || task.k.shape[3] == head_dim, "k must have q's head_dim");
  require(task.q.shape[1] == task.query_run.size() && (task.key_run.empty() || task.k.shape[1] == task.key_run.size()),
          "views must be as long as their runs");
  require(task.slots.size() <= kMaxSlots, "found " + std::to_string(task.slots.size()) + " heads, wanted at most 256");
  p.q = input_rows(task.q);
  p.k = input_rows(task.k);
  p.num_queries = task.query_run.size();
  p.num_keys = task.key_run.size();
  p.query_minus_key = task.query_run.begin - task.key_run.begin;
  p.first_key = task.key_run.begin;
  p.min_delta = task.band.min_delta;
  p.max_delta = task.band.max_delta;
  p.max_deltas = task.max_deltas.empty() ? nullptr : task.max_deltas.data();
  p.scale_log2 = task.scale * std::numbers::log2e_v<float>;
  p.head_dim = static_cast<int>(head_dim);
  p.num_slots = static_cast<int>(task.slots.size());
  p.num_query_tiles = ceil_div(p.num_queries, kQueryTile);
  p.num_items = task.q.shape[0] * p.num_slots * p.num_query_tiles;
  require(p.num_items <= std::numeric_limits<std::int32_t>::max(), "too many query tiles for one launch");
  for (std::size_t i = 0; i < task.slots.size(); ++i) {
    p.q_head[i] = static_cast<std::uint16_t>(task.slots[i].q_head);
    p.kv_head[i] = static_cast<std::uint16_t>(task.slots[i].kv_head);
  }
  return p;
}

PortableParams attend_params(const DeviceAttend& launch, double epsilon, cudaStream_t stream) {
  const AttendTask& task = launch.task;
  require(!launch.finishes, "rows are finished by finish()");
  PortableParams p = score_params(task);
  p.v_dim = static_cast<int>(launch.partial.shape.v_dim);
  require(p.v_dim >= 0 && p.v_dim <= 256, "found v_dim " + std::to_string(p.v_dim) + ", wanted at most 256");
  if (p.v_dim > 0) p.v = input_rows(task.v);
  require(
      p.v_dim == 0 || task.key_run.empty() || (task.v.shape[3] == p.v_dim && task.v.shape[1] == task.key_run.size()),
      "v must have the partial's v_dim and be as long as its run");
  p.log2_epsilon = epsilon > 0.0 ? static_cast<float>(std::log2(epsilon)) : -std::numeric_limits<float>::infinity();
  p.out = launch.partial.out;
  p.first = launch.partial.first;
  p.sum = launch.partial.sum;
  p.starts = launch.starts;
  if (launch.workspace != nullptr) {
    check(cudaMemsetAsync(launch.workspace, 0, kWorkspaceBytes, stream));
    p.tiles_computed = launch.workspace + 1;
  }
  return p;
}

void count_keys(const AttendTask& task, const DeviceSearch& search, const DevicePartial* all, cudaStream_t stream) {
  PortableParams p = score_params(task);
  p.search = search.rows;
  p.bins = search.bins;
  p.search_words = search_words(search.has_lists);
  p.starts = false;
  if (all != nullptr) {
    p.first = all->first;
    p.sum = all->sum;
  }
  if (p.num_items > 0) launch_count(p, all != nullptr, stream);
}

}  // namespace

void attend(const DeviceAttend& launch, const SoftmaxParams&, cudaStream_t stream) {
  const PortableParams p = attend_params(launch, 0.0, stream);
  if (p.num_items > 0) launch_softmax(p, stream);
}
void attend(const DeviceAttend& launch, const CogParams&, cudaStream_t stream) {
  const PortableParams p = attend_params(launch, 0.0, stream);
  if (p.num_items > 0) launch_cog(p, stream);
}
void attend(const DeviceAttend& launch, const StickBreakingParams& params, cudaStream_t stream) {
  const PortableParams p = attend_params(launch, params.epsilon, stream);
  if (p.num_items > 0) launch_stick_breaking(p, stream);
}
void attend(const DeviceAttend& launch, const DeviceSearch& chosen, cudaStream_t stream) {
  PortableParams p = attend_params(launch, 0.0, stream);
  p.search = chosen.rows;
  if (p.num_items > 0) launch_topk(p, stream);
}

void start_search(const AttendTask& sample, const std::int64_t* keys_kept, const DeviceSearch& search,
                  cudaStream_t stream) {
  PortableParams p = score_params(sample);  // its keys are looked at by all rows
  p.bins = search.bins;
  p.search_words = search_words(search.has_lists);
  if (p.num_items == 0) return;
  if (p.num_keys > 0) launch_sample(p, stream);
  begin_rows(search, keys_kept, sample_size(p.num_keys), stream);
}
void count(const AttendTask& task, const DeviceSearch& search, cudaStream_t stream) {
  count_keys(task, search, nullptr, stream);
}
void count_and_add(const AttendTask& task, const DeviceSearch& search, const DevicePartial& all, cudaStream_t stream) {
  count_keys(task, search, &all, stream);
}

}  // namespace ringscan::cuda::portable
