#include "kernels/cuda/linear.hpp"

#include <algorithm>
#include <limits>
#include <string>

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/linear_params.hpp"
#include "kernels/cuda/linear_sm90.hpp"

namespace ringscan::cuda {
namespace {

void require(bool holds, const std::string& wanted) {
  if (!holds) throw failure("CUDA linear attention: " + wanted);
}

std::int64_t state_floats(const LinearShape& shape) {
  return shape.head_dim * shape.v_dim + (shape.has_normalizer ? shape.head_dim : 0);
}

/// About two blocks of each multiprocessor of a large device, or one with two warpgroups (or two blocks a segment) where
/// v is wide; segments no shorter than 1024 tokens.
LinearSegments cut(const LinearShape& shape, std::int64_t tokens, void* workspace) {
  const std::int64_t blocks_wanted = shape.v_dim <= 64 ? 264 : 132;
  constexpr std::int64_t kLeastTokens = 1024;
  constexpr std::int64_t kMultiple = 128;
  LinearSegments segments;
  const std::int64_t streams = std::max<std::int64_t>(1, shape.batch * shape.slots);
  const std::int64_t most = std::max<std::int64_t>(1, tokens / kLeastTokens);
  const std::int64_t wanted = std::clamp<std::int64_t>(blocks_wanted / streams, 1, most);
  segments.tokens = ceil_div(ceil_div(std::max<std::int64_t>(1, tokens), wanted), kMultiple) * kMultiple;
  segments.count = std::max<std::int64_t>(1, ceil_div(tokens, segments.tokens));
  const std::int64_t summaries = streams * segments.count;
  segments.log_decay = static_cast<float*>(workspace);
  segments.s = segments.log_decay + ceil_div(summaries, 64) * 64;
  segments.s_begin = segments.s + summaries * shape.head_dim * shape.v_dim;
  if (shape.has_normalizer) {
    segments.n = segments.s_begin + summaries * shape.head_dim * shape.v_dim;
    segments.n_begin = segments.n + summaries * shape.head_dim;
  }
  return segments;
}

LinearDeviceParams make_params(const LinearTask& task, const LinearParams& params, const LinearShape& shape,
                               void* workspace) {
  require(shape.head_dim >= 1 && shape.head_dim <= 256 && shape.v_dim >= 1 && shape.v_dim <= 256,
          "head_dim and v_dim must be 1 .. 256");
  require(static_cast<std::int64_t>(task.slots.size()) == shape.slots && shape.slots <= kMaxSlots,
          "wanted as many slots as the state has, at most 256");
  require(task.k.shape[3] == shape.head_dim && task.v.shape[3] == shape.v_dim, "k and v must have the state's widths");
  require(shape.has_normalizer == (params.normalizer == Normalizer::kZ), "the state must have the normaliser");
  LinearDeviceParams p;
  p.q = rows_in(task.q);
  p.k = rows_in(task.k);
  p.v = rows_in(task.v);
  if (params.decay == Decay::kToken) p.log_decay = rows_in(task.log_decay);
  p.o = task.o.data;
  p.o_type = task.o.type;
  p.o_strides = row_strides(task.o);
  p.tokens = task.k.shape[1];
  p.segments = cut(shape, p.tokens, workspace);
  p.head_dim = static_cast<int>(shape.head_dim);
  p.v_dim = static_cast<int>(shape.v_dim);
  p.num_slots = static_cast<int>(shape.slots);
  p.batch = shape.batch;
  p.scale = static_cast<float>(task.scale);
  p.elu1 = params.feature_map == FeatureMap::kElu1;
  p.normalizes = shape.has_normalizer;
  for (std::size_t i = 0; i < task.slots.size(); ++i) {
    p.q_head[i] = static_cast<std::uint16_t>(task.slots[i].q_head);
    p.kv_head[i] = static_cast<std::uint16_t>(task.slots[i].kv_head);
    p.decay_column[i] = static_cast<std::uint16_t>(params.decay == Decay::kToken ? task.decay_columns[i] : 0);
    p.head_log_decay[i] = params.decay == Decay::kHead ? static_cast<float>(task.head_log_decay[i]) : 0.0f;
  }
  return p;
}

void launch(const LinearTask& task, const LinearDeviceParams& p, bool output, cudaStream_t stream) {
  if (p.batch * p.num_slots == 0) return;
  if (takes_linear_sm90(task, p, output)) {
    launch_linear_sm90(task, p, output, stream);
  } else if (takes_linear_bf16(p, output)) {
    launch_linear_bf16(p, output, stream);
  } else {
    launch_linear_portable(p, output, stream);
  }
}

struct CarryTask {
  LinearSegments segments;
  std::int64_t streams, head_dim, v_dim;
  const float *from_decay, *from_s, *from_n;
  float *to_decay, *to_s, *to_n;
};

/// One element of the state along the segments: `local` [segments, size] is what each adds, `begin` what it starts with.
/// In fp64: a factor near 1 rounds alike each time.
__device__ float carry_element(const float* local, float* begin, std::int64_t size, const float* log_decay,
                               std::int64_t segments, float from) {
  auto x = static_cast<double>(from);
  for (std::int64_t i = 0; i < segments; ++i) {
    begin[i * size] = static_cast<float>(x);
    x = fma(x, exp(static_cast<double>(log_decay[i])), static_cast<double>(local[i * size]));
  }
  return static_cast<float>(x);
}

__global__ void carry_kernel(CarryTask task) {
  const LinearSegments& seg = task.segments;
  const std::int64_t size = task.head_dim * task.v_dim;
  const std::int64_t floats = size + (seg.n != nullptr ? task.head_dim : 0);
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < task.streams * floats; i += step) {
    const std::int64_t stream = i / floats;
    const std::int64_t at = i % floats;
    const float* log_decay = seg.log_decay + stream * seg.count;
    if (at < size) {
      const std::int64_t place = stream * seg.count * size + at;
      const float x = carry_element(seg.s + place, seg.s_begin + place, size, log_decay, seg.count,
                                    task.from_s != nullptr ? task.from_s[stream * size + at] : 0.0f);
      if (task.to_s != nullptr) task.to_s[stream * size + at] = x;
    } else {
      const std::int64_t row = at - size;
      const std::int64_t place = stream * seg.count * task.head_dim + row;
      const float x = carry_element(seg.n + place, seg.n_begin + place, task.head_dim, log_decay, seg.count,
                                    task.from_n != nullptr ? task.from_n[stream * task.head_dim + row] : 0.0f);
      if (task.to_n != nullptr) task.to_n[stream * task.head_dim + row] = x;
    }
    if (at != 0 || task.to_decay == nullptr) continue;
    double sum = task.from_decay != nullptr ? static_cast<double>(task.from_decay[stream]) : 0.0;
    for (std::int64_t s = 0; s < seg.count; ++s) sum += static_cast<double>(log_decay[s]);
    task.to_decay[stream] = static_cast<float>(sum);
  }
}

__global__ void join_kernel(std::int64_t streams, std::int64_t size, const float* near_decay, float* near,
                            const float* far) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < streams * size; i += step) {
    near[i] = fmaf(far[i], expf(near_decay[i / size]), near[i]);
  }
}
__global__ void join_decays(std::int64_t streams, float* near, const float* far) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < streams) near[i] += far[i];
}

/// States that are folded in one launch, nearest first.
constexpr int kMostFolded = 16;
struct FoldTask {
  DeviceLinearState to;
  DeviceLinearState runs[kMostFolded];
  int count;
};

/// Of a part of the states, `size` elements a stream: `part(state)` is where it lies.
template <typename Part>
__device__ void fold_part(const FoldTask& task, std::int64_t size, Part part) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  const std::int64_t first = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (std::int64_t i = first; i < task.to.streams() * size; i += step) {
    float x = 0.0f;
    float passed = 0.0f;  // log decay of the runs nearer than this one
    for (int run = 0; run < task.count; ++run) {
      x = fmaf(part(task.runs[run])[i], expf(passed), x);
      passed += task.runs[run].log_decay()[i / size];
    }
    part(task.to)[i] = x;
  }
}
__global__ void fold_kernel(const __grid_constant__ FoldTask task) {
  const LinearShape& shape = task.to.shape;
  fold_part(task, shape.head_dim * shape.v_dim, [](const DeviceLinearState& state) { return state.s(); });
  if (shape.has_normalizer) fold_part(task, shape.head_dim, [](const DeviceLinearState& state) { return state.n(); });
  const std::int64_t stream = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (stream >= task.to.streams()) return;
  float sum = 0.0f;
  for (int run = 0; run < task.count; ++run) sum += task.runs[run].log_decay()[stream];
  task.to.log_decay()[stream] = sum;
}

unsigned blocks_for(std::int64_t threads) {
  return static_cast<unsigned>(std::clamp<std::int64_t>(ceil_div(threads, 256), 1, 4096));
}

}  // namespace

std::size_t linear_state_bytes(const LinearShape& shape) {
  return static_cast<std::size_t>(shape.batch * shape.slots * (1 + state_floats(shape))) * sizeof(float);
}

std::size_t linear_workspace_bytes(const LinearShape& shape, std::int64_t tokens) {
  const LinearSegments segments = cut(shape, tokens, nullptr);
  const std::int64_t summaries = std::max<std::int64_t>(1, shape.batch * shape.slots) * segments.count;
  return static_cast<std::size_t>(ceil_div(summaries, 64) * 64 + 2 * summaries * state_floats(shape)) * sizeof(float);
}

void linear_summarize(const LinearTask& task, const LinearParams& params, const LinearShape& shape, void* workspace,
                      cudaStream_t stream) {
  const LinearDeviceParams p = make_params(task, params, shape, workspace);
  launch(task, p, false, stream);
}

void linear_carry(const LinearShape& shape, std::int64_t tokens, void* workspace, const DeviceLinearState& from,
                  const DeviceLinearState& to, cudaStream_t stream) {
  CarryTask task{cut(shape, tokens, workspace), shape.batch * shape.slots, shape.head_dim, shape.v_dim, nullptr, nullptr,
                 nullptr, nullptr, nullptr, nullptr};
  if (task.streams == 0) return;
  if (from.data != nullptr) {
    task.from_decay = from.log_decay();
    task.from_s = from.s();
    task.from_n = from.n();
  }
  if (to.data != nullptr) {
    task.to_decay = to.log_decay();
    task.to_s = to.s();
    task.to_n = to.n();
  }
  carry_kernel<<<blocks_for(task.streams * state_floats(shape)), 256, 0, stream>>>(task);
  check(cudaGetLastError());
}

void linear_output(const LinearTask& task, const LinearParams& params, const LinearShape& shape, void* workspace,
                   cudaStream_t stream) {
  require(task.q.shape[3] == shape.head_dim && task.o.data != nullptr && task.o.shape[3] == shape.v_dim,
          "q and o must have the state's widths");
  const LinearDeviceParams p = make_params(task, params, shape, workspace);
  launch(task, p, true, stream);
}

void linear_join(const DeviceLinearState& near, const DeviceLinearState& far, cudaStream_t stream) {
  const std::int64_t streams = near.streams();
  if (streams == 0) return;
  const std::int64_t size = near.shape.head_dim * near.shape.v_dim;
  join_kernel<<<blocks_for(streams * size), 256, 0, stream>>>(streams, size, near.log_decay(), near.s(), far.s());
  if (near.n() != nullptr) {
    join_kernel<<<blocks_for(streams * near.shape.head_dim), 256, 0, stream>>>(streams, near.shape.head_dim,
                                                                             near.log_decay(), near.n(), far.n());
  }
  join_decays<<<blocks_for(streams), 256, 0, stream>>>(streams, near.log_decay(), far.log_decay());
  check(cudaGetLastError());
}

void linear_fold(const DeviceLinearState& to, std::span<const DeviceLinearState> runs, cudaStream_t stream) {
  if (to.streams() == 0) return;
  FoldTask task{to, {}, static_cast<int>(std::min<std::size_t>(runs.size(), kMostFolded))};
  std::copy_n(runs.begin(), task.count, task.runs);
  const std::int64_t threads = to.streams() * std::max<std::int64_t>(1, to.shape.head_dim * to.shape.v_dim);
  fold_kernel<<<blocks_for(threads), 256, 0, stream>>>(task);
  check(cudaGetLastError());
  for (const DeviceLinearState& run : runs.subspan(static_cast<std::size_t>(task.count))) linear_join(to, run, stream);
}

void linear_reset(const DeviceLinearState& state, cudaStream_t stream) {
  check(cudaMemsetAsync(state.data, 0, linear_state_bytes(state.shape), stream));
}

}  // namespace ringscan::cuda
