#include "kernels/cuda/attend.hpp"

#include <cmath>
#include <limits>
#include <optional>

#include "kernels/cuda/attend_launch_sm90.hpp"
#include "kernels/cuda/attend_prepare.hpp"
#include "kernels/cuda/check.hpp"
#include "kernels/cuda/tensor_map.hpp"
#include "kernels/cuda/topk.hpp"

namespace ringscan::cuda {
namespace {

using LaunchFunction = void (*)(const AttendParams&, const TensorMaps&, ElementType, cudaStream_t);

void require_shapes(const DeviceAttend& launch) {
  const AttendTask& task = launch.task;
  const std::int64_t head_dim = task.q.shape[3];
  require_scores(task);
  require(task.v.shape[3] == head_dim, "v must have q's head_dim");
  require(task.v.type == task.q.type && tma_readable(task.v),
          "v must have q's type, data and strides multiples of 16 bytes");
  require(task.v.shape[1] == task.key_run.size(), "views must be as long as their runs");
  const MutableAnyView& o = launch.finish.o;
  require(!launch.finishes || (tma_readable(o) && o.type == task.q.type && o.shape[3] == head_dim),
          "o must have q's type and head_dim, data and strides multiples of 16 bytes");
}

AttendParams make_params(const DeviceAttend& launch, double epsilon) {
  AttendParams p = score_params(launch.task, query_tile(launch.task.q.shape[3]), launch.workspace);
  p.log2_epsilon = epsilon > 0.0 ? static_cast<float>(std::log2(epsilon)) : -std::numeric_limits<float>::infinity();
  p.out = launch.partial.out;
  p.first = launch.partial.first;
  p.sum = launch.partial.sum;
  p.starts = launch.starts;
  p.finishes = launch.finishes;
  p.o = launch.finish.o.data;
  p.o_strides = row_strides(launch.finish.o);
  p.statistic = launch.finish.statistic.data;
  p.statistic_strides = row_strides(launch.finish.statistic);
  return p;
}

void attend_with(LaunchFunction function, const DeviceAttend& launch, double epsilon, const SearchRow* search,
                 cudaStream_t stream) {
  require_hopper();
  require_shapes(launch);
  const AttendTask& task = launch.task;
  AttendParams params = make_params(launch, epsilon);
  check(cudaMemsetAsync(launch.workspace, 0, kWorkspaceBytes, stream));
  if (params.num_items == 0) return;
  const std::int64_t tile = key_tile(params.head_dim);
  const PaddedKeys k(task.k, tile, stream);
  const PaddedKeys v(task.v, tile, stream);
  params.loadable_keys = k.view().shape[1];
  params.search = search;
  const TensorMaps maps{query_map(task.q, static_cast<int>(query_tile(params.head_dim))),
                        permuted_key_map(k.view(), static_cast<int>(tile)),
                        permuted_key_map(v.view(), static_cast<int>(tile))};
  // Rows that may end early are short, or not known to be long.
  const bool may_cut = launch.partial.out != nullptr && params.log2_epsilon == -std::numeric_limits<float>::infinity();
  std::optional<ItemParts> parts;
  if (may_cut) parts.emplace(params, stream);
  std::optional<OverflowLists> overflows;
  if (function == launch_cog && task.q.type == ElementType::kBfloat16) overflows.emplace(params, stream);
  function(params, maps, task.q.type, stream);
  join_parts(params, query_tile(params.head_dim), function == launch_stick_breaking, task.q.type, stream);
}

}  // namespace

std::int64_t key_tile(std::int64_t head_dim) {
  return visit_tile_shape(head_dim, [](auto shape) -> std::int64_t { return decltype(shape)::kKeys; });
}
std::int64_t query_tile(std::int64_t head_dim) {
  return visit_tile_shape(head_dim, [](auto shape) -> std::int64_t { return decltype(shape)::kRows; });
}

void attend(const DeviceAttend& launch, const SoftmaxParams&, cudaStream_t stream) {
  attend_with(launch_softmax, launch, 0.0, nullptr, stream);
}

void attend(const DeviceAttend& launch, const CogParams&, cudaStream_t stream) {
  attend_with(launch_cog, launch, 0.0, nullptr, stream);
}

void attend(const DeviceAttend& launch, const StickBreakingParams& params, cudaStream_t stream) {
  attend_with(launch_stick_breaking, launch, params.epsilon, nullptr, stream);
}

void attend(const DeviceAttend& launch, const DeviceSearch& chosen, cudaStream_t stream) {
  attend_with(launch_topk, launch, 0.0, chosen.rows, stream);
}

}  // namespace ringscan::cuda
