#include "kernels/cuda/scan.hpp"

#include <algorithm>
#include <limits>
#include <string>

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/scan_params.hpp"

namespace ringscan::cuda {
namespace {

/// delta_sum from its parts; a thread a channel.
__global__ void add_parts(const float* parts, float* sums, std::int64_t num_parts, std::int64_t channels,
                          std::int64_t count) {
  const std::int64_t index = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= count) return;
  double sum = 0.0;
  for (std::int64_t part = 0; part < num_parts; ++part) {
    sum += static_cast<double>(parts[(index / channels * num_parts + part) * channels + index % channels]);
  }
  sums[index] = static_cast<float>(sum);
}

/// h = e^(A delta_sum_near) h_far + h_near; delta_sum is added by a channel's first state once the others have read it.
__global__ void join_states(const float* a, std::int64_t channels, std::int64_t d_state, std::int64_t count,
                            ScanSummary near, ScanSummary far) {
  const std::int64_t index = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= count) return;
  const float decay = expf(a[index % (channels * d_state)] * near.delta_sum[index / d_state]);
  near.h[index] = fmaf(decay, far.h[index], near.h[index]);
}
__global__ void join_sums(std::int64_t count, float* near, const float* far) {
  const std::int64_t index = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index < count) near[index] += far[index];
}

unsigned blocks_of(std::int64_t threads) {
  return static_cast<unsigned>(ceil_div(threads, 256));
}

bool has_float32(const ScanInputs& in) {
  return in.u.type == ElementType::kFloat32 || in.delta.type == ElementType::kFloat32 ||
         in.b.type == ElementType::kFloat32 || in.c.type == ElementType::kFloat32 ||
         (in.z.data != nullptr && in.z.type == ElementType::kFloat32);
}

/// Groups, blocks and segments: as many as fill the device about twice, none shorter than 1024 tokens.
ScanParams sizes_of(const ScanInputs& in) {
  constexpr std::int64_t kBlocksWanted = 264;
  constexpr std::int64_t kLeastTokens = 1024;
  ScanParams p;
  p.batch = in.batch();
  p.tokens = in.tokens();
  p.channels = in.channels();
  p.d_state = static_cast<int>(in.d_state());
  p.first_channel = in.first_channel;
  p.channels_per_group = in.channels_per_group;
  p.first_group = in.first_channel / in.channels_per_group;
  p.num_groups = (in.first_channel + p.channels - 1) / in.channels_per_group - p.first_group + 1;
  p.blocks_per_group = ceil_div(in.channels_per_group, scan_channels(scan_lanes(p.d_state)));
  const std::int64_t blocks = std::max<std::int64_t>(1, p.blocks_per_group * p.num_groups * p.batch);
  const std::int64_t most = std::max<std::int64_t>(1, p.tokens / kLeastTokens);
  const std::int64_t segments = std::clamp<std::int64_t>(kBlocksWanted / blocks, 1, most);
  p.segment_tokens = ceil_div(ceil_div(std::max<std::int64_t>(1, p.tokens), segments), kScanTokens) * kScanTokens;
  p.num_segments = std::max<std::int64_t>(1, ceil_div(p.tokens, p.segment_tokens));
  return p;
}

/// The kernels count tokens, and the bytes from one to the sixteenth behind it, in 32 bits.
void require_fits(const ScanParams& p) {
  constexpr std::int64_t kMostTokens = std::int64_t{1} << 30;
  constexpr std::int64_t kMostApart = std::int64_t{1} << 24;
  std::int64_t apart = p.y_strides.row;
  for (const RowsIn* rows : {&p.u, &p.delta, &p.z, &p.b, &p.c}) apart = std::max(apart, rows->strides.row);
  if (p.tokens > kMostTokens || apart > kMostApart) {
    throw failure("CUDA scan: found " + std::to_string(p.tokens) + " tokens, " + std::to_string(apart) +
                  " elements apart, want at most 2^30 and 2^24");
  }
}

}  // namespace

std::size_t scan_workspace_bytes(const ScanInputs& inputs) {
  const ScanParams p = sizes_of(inputs);
  return static_cast<std::size_t>(p.batch * p.num_segments * scan_parts(scan_lanes(p.d_state)) * p.channels) *
             sizeof(float) +
         16;
}

void scan(const DeviceScan& task, cudaStream_t stream) {
  const ScanInputs& in = task.inputs;
  if (in.d_state() < 1 || in.d_state() > 128) {
    throw failure("CUDA scan: found d_state " + std::to_string(in.d_state()) + ", wanted 1 .. 128");
  }
  if (in.batch() == 0 || in.channels() == 0) return;
  ScanParams p = sizes_of(in);
  p.u = rows_in(in.u);
  p.delta = rows_in(in.delta);
  p.z = rows_in(in.z);
  p.b = rows_in(in.b);
  p.c = rows_in(in.c);
  p.a = in.a;
  p.d = in.d;
  p.delta_bias = in.delta_bias;
  p.y = task.y.data;
  p.y_type = task.y.type;
  p.y_strides = row_strides(task.y);
  require_fits(p);
  p.h_in = task.h_in;
  p.h_out = task.h_out;
  p.delta_parts = task.delta_sum != nullptr ? static_cast<float*>(task.workspace) : nullptr;
  if (p.blocks_per_group * p.num_groups * p.num_segments * p.batch > std::numeric_limits<std::int32_t>::max()) {
    throw failure("CUDA scan: too many blocks for one launch");
  }
  if (p.delta_parts == nullptr && task.delta_sum != nullptr) throw failure("CUDA scan: workspace is missing");
  if (has_float32(in)) {
    launch_scan_precise(p, stream);
  } else {
    launch_scan_fast(p, stream);
  }
  if (task.delta_sum == nullptr) return;
  const std::int64_t sums = p.batch * p.channels;
  add_parts<<<blocks_of(sums), 256, 0, stream>>>(p.delta_parts, task.delta_sum,
                                                 p.num_segments * scan_parts(scan_lanes(p.d_state)), p.channels, sums);
  check(cudaGetLastError());
}

void join_scans(const float* a, std::int64_t batch, std::int64_t channels, std::int64_t d_state,
                const ScanSummary& near, const ScanSummary& far, cudaStream_t stream) {
  const std::int64_t sums = batch * channels;
  if (sums == 0) return;
  join_states<<<blocks_of(sums * d_state), 256, 0, stream>>>(a, channels, d_state, sums * d_state, near, far);
  join_sums<<<blocks_of(sums), 256, 0, stream>>>(sums, near.delta_sum, far.delta_sum);
  check(cudaGetLastError());
}

}  // namespace ringscan::cuda
