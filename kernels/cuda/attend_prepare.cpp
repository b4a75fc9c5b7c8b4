#include "kernels/cuda/attend_prepare.hpp"

#include <algorithm>
#include <limits>
#include <numbers>

#include "core/error.hpp"
#include "kernels/cuda/attend_launch_sm90.hpp"
#include "kernels/cuda/check.hpp"
#include "kernels/cuda/multiprocessors.hpp"
#include "kernels/cuda/split_tail.hpp"
#include "kernels/cuda/tensor_map.hpp"
#include "kernels/cuda/work_order.hpp"

namespace ringscan::cuda {
namespace {

/// As many (batch, slot) pairs at a time as have their keys and values in about half of an H100's L2 cache.
std::uint32_t streams_a_section(std::int64_t num_keys, std::int64_t head_dim, std::uint32_t num_streams) {
  constexpr std::int64_t kCacheBytes = 32 << 20;
  const std::int64_t stream_bytes = std::max<std::int64_t>(1, num_keys * head_dim * 4);
  return static_cast<std::uint32_t>(std::clamp<std::int64_t>(kCacheBytes / stream_bytes, 1, num_streams));
}

}  // namespace

void require(bool holds, const std::string& wanted) {
  if (!holds) throw failure("CUDA attend: " + wanted);
}

void require_hopper() {
  int device = 0;
  int major = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  require(major == 9, "found a device of compute capability " + std::to_string(major) + ".x, wanted 9.0 (Hopper)");
}

void require_scores(const AttendTask& task) {
  const std::int64_t head_dim = task.q.shape[3];
  require(head_dim >= 8 && head_dim <= 256 && head_dim % 8 == 0,
          "found head_dim " + std::to_string(head_dim) + ", wanted a multiple of 8 up to 256");
  require(task.k.shape[3] == head_dim, "k must have q's head_dim");
  require(task.q.type == task.k.type, "q and k must have one element type");
  require(tma_readable(task.q) && tma_readable(task.k),
          "q and k must be bfloat16 or float16, data and strides multiples of 16 bytes");
  require(task.q.shape[1] == task.query_run.size() && task.k.shape[1] == task.key_run.size(),
          "views must be as long as their runs");
  require(task.slots.size() <= kMaxSlots, "found " + std::to_string(task.slots.size()) + " heads, wanted at most 256");
  require(task.scale > 0.0f, "scale must be positive");
  require(task.query_run.size() < std::numeric_limits<std::int32_t>::max() &&
              task.key_run.size() < std::numeric_limits<std::int32_t>::max(),
          "a run must be shorter than 2^31 tokens");
}

AttendParams score_params(const AttendTask& task, std::int64_t rows_a_tile, std::uint32_t* workspace) {
  require(workspace != nullptr, "workspace is missing");
  AttendParams p;
  p.num_queries = task.query_run.size();
  p.num_keys = task.key_run.size();
  p.loadable_keys = p.num_keys;
  p.query_minus_key = task.query_run.begin - task.key_run.begin;
  p.first_key = task.key_run.begin;
  p.min_delta = task.band.min_delta;
  p.max_delta = task.band.max_delta;
  p.max_deltas = task.max_deltas.empty() ? nullptr : task.max_deltas.data();
  p.scale_log2 = task.scale * std::numbers::log2e_v<float>;
  p.head_dim = static_cast<int>(task.q.shape[3]);
  p.num_slots = static_cast<int>(task.slots.size());
  p.num_query_tiles = static_cast<std::uint32_t>(ceil_div(p.num_queries, rows_a_tile));
  const std::int64_t num_streams = task.q.shape[0] * p.num_slots;
  const std::int64_t num_items = num_streams * p.num_query_tiles;
  require(num_items < std::numeric_limits<std::int32_t>::max(), "too many query tiles for one launch");
  p.num_items = p.num_whole = static_cast<std::uint32_t>(num_items);
  if (num_items > 0) {
    const auto streams = static_cast<std::uint32_t>(num_streams);
    set_sections(p, streams, streams_a_section(p.num_keys, p.head_dim, streams));
  }
  p.next_item = workspace;
  p.tiles_loaded = workspace + 1;
  for (std::size_t i = 0; i < task.slots.size(); ++i) {
    p.q_head[i] = static_cast<std::uint16_t>(task.slots[i].q_head);
    p.kv_head[i] = static_cast<std::uint16_t>(task.slots[i].kv_head);
  }
  return p;
}

LaunchMemory::~LaunchMemory() {
  if (data_ != nullptr) cudaFreeAsync(data_, stream_);
}

void* LaunchMemory::allocate(std::size_t bytes) {
  check(cudaMallocAsync(&data_, bytes, stream_));
  return data_;
}

ItemParts::ItemParts(AttendParams& params, cudaStream_t stream) : memory_(stream) {
  if (params.max_deltas != nullptr) return;  // on the device, so that the items' lengths are not known here
  const auto rows = static_cast<int>(query_tile(params.head_dim)), keys = static_cast<int>(key_tile(params.head_dim));
  const std::int64_t row_floats = params.head_dim + 2;
  const auto partial_bytes = static_cast<std::int64_t>(sizeof(float)) * rows * row_floats;
  const TailSplit split = split_tail(params.num_items, count_multiprocessors(), partial_bytes, [&](std::uint32_t item) {
    const QueryTile queries = query_tile_of(params, item, rows);
    return std::int64_t{key_tiles_of(params, queries.row, params.max_delta, rows, keys).count};
  });
  if (split.num_parts == 1) return;
  const std::int64_t num_rows = std::int64_t{split.num_items} * (split.num_parts - 1) * rows;
  const auto bytes = static_cast<std::size_t>(num_rows * row_floats) * sizeof(float);
  auto* const data = static_cast<float*>(memory_.allocate(bytes));
  params.num_whole = params.num_items - split.num_items;
  params.num_parts = split.num_parts;
  params.part_out = data;
  params.part_first = data + num_rows * params.head_dim;
  params.part_sum = params.part_first + num_rows;
}

OverflowLists::OverflowLists(AttendParams& params, cudaStream_t stream) : memory_(stream) {
  const std::size_t tasks = params.num_tasks();
  auto* const data = static_cast<std::uint32_t*>(memory_.allocate((2 + 2 * tasks) * sizeof(std::uint32_t)));
  check(cudaMemsetAsync(data, 0, (2 + tasks) * sizeof(std::uint32_t), stream));
  params.overflows = {data, data + 2, data + 2 + tasks};
}

PaddedKeys::PaddedKeys(const AnyView& view, std::int64_t tile, cudaStream_t stream) : view_(view), memory_(stream) {
  if (view.shape[1] >= tile) return;
  const Shape4 shape{view.shape[0], tile, view.shape[2], view.shape[3]};
  void* const copy = memory_.allocate(static_cast<std::size_t>(2 * element_count(shape)));
  pad_keys(view.data, {view.strides[0], view.strides[1], view.strides[2]},
           {view.shape[0], view.shape[1], view.shape[2], view.shape[3]}, tile, copy, stream);
  view_ = dense_any_view(static_cast<const void*>(copy), view.type, shape);
}

}  // namespace ringscan::cuda
