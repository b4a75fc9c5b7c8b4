// The selective scan on the CPU: hands blocks of tokens and channels to this machine's functions, where they stand if
// they are float32 and whole vectors, else by way of scratch.

#include "kernels/ssm_kernels.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "kernels/cpu/flush_denormals.hpp"
#include "kernels/cpu/projection.hpp"
#include "kernels/cpu/ssm_ops.hpp"

namespace ringscan {
namespace {

using namespace cpu;

constexpr std::size_t kBlockFloats = kSsmTokens * kSsmChannels;

void require(bool holds, const char* wanted) {
  if (!holds) throw failure(std::string("cpu ssm kernels: ") + wanted);
}

std::size_t round_up_lanes(std::size_t channels) {
  return (channels + kSsmLanes - 1) / kSsmLanes * kSsmLanes;
}

/// A run of channels of one group, at most kSsmChannels of them.
struct ChannelBlock {
  std::int64_t begin = 0;
  std::int64_t count = 0;
  std::int64_t group = 0;
  std::size_t padded() const { return round_up_lanes(static_cast<std::size_t>(count)); }
  bool is_whole_vectors() const { return padded() == static_cast<std::size_t>(count); }
};

/// As many channels as have their states in the second cache with room to spare, in whole vectors: a vector's leave it
/// once for several tokens, and wide runs of channels are what memory delivers fast.
std::int64_t channels_at_once(std::int64_t d_state) {
  constexpr std::size_t kStateBytes = 64 * 1024;
  const std::size_t fit = kStateBytes / (2 * sizeof(float) * static_cast<std::size_t>(d_state));
  return static_cast<std::int64_t>(std::clamp(fit / kSsmLanes * kSsmLanes, kSsmLanes, kSsmChannels));
}

std::vector<ChannelBlock> channel_blocks(const ScanInputs& inputs) {
  std::vector<ChannelBlock> blocks;
  for (std::int64_t begin = 0; begin < inputs.channels();) {
    const std::int64_t global = inputs.first_channel + begin;
    const std::int64_t group = global / inputs.channels_per_group;
    const std::int64_t group_end = (group + 1) * inputs.channels_per_group - inputs.first_channel;
    const std::int64_t end = std::min({begin + channels_at_once(inputs.d_state()), group_end, inputs.channels()});
    blocks.push_back({begin, end - begin, group});
    begin = end;
  }
  return blocks;
}

void check(const ScanInputs& inputs, const TensorView<float>& y) {
  const Shape4 wanted{inputs.batch(), inputs.tokens(), 1, inputs.channels()};
  require(inputs.u.shape == wanted && inputs.delta.shape == wanted && y.shape == wanted, "delta and y shaped as u");
  require(inputs.z.data == nullptr || inputs.z.shape == wanted, "z shaped as u");
  require(inputs.b.shape == inputs.c.shape && inputs.b.shape[0] == wanted[0] && inputs.b.shape[1] == wanted[1],
          "B and C of one shape, over the tokens of u");
  require(inputs.channels_per_group >= 1 &&
              inputs.first_channel + inputs.channels() <= inputs.b.shape[2] * inputs.channels_per_group,
          "a group of B and C for every channel");
}

/// What a block works in.
class Workspace {
 public:
  void reserve(std::size_t d_state) {
    if (buffer_.size_bytes() < bytes(d_state)) buffer_ = Buffer(bytes(d_state));
    buffer_.fill_zero();
    float* next = buffer_.as<float>();
    const auto take = [&next](std::size_t count) { return std::exchange(next, next + count); };
    u = take(kBlockFloats);
    delta = take(kBlockFloats);
    z = take(kBlockFloats);
    y = take(kBlockFloats);
    b = take(kSsmTokens * d_state);
    c = take(kSsmTokens * d_state);
    states = take(2 * d_state * kSsmChannels);
    d = take(kSsmChannels);
    bias = take(kSsmChannels);
    a_slowest = take(kSsmChannels);
    sums = {take(kSsmChannels), take(kSsmChannels)};
  }
  static std::size_t bytes(std::size_t d_state) {
    return (4 * kBlockFloats + 2 * kSsmTokens * d_state + 2 * d_state * kSsmChannels + 5 * kSsmChannels) *
           sizeof(float);
  }

  /// Of channel `i` of the block: A log2 e, and kSsmLanes further its h.
  float* state(std::size_t i, std::size_t n, std::size_t d_state) const {
    return states + (i / kSsmLanes * d_state + n) * 2 * kSsmLanes + i % kSsmLanes;
  }

  float* u = nullptr;
  float* delta = nullptr;
  float* z = nullptr;
  float* y = nullptr;
  float* b = nullptr;
  float* c = nullptr;
  float* states = nullptr;
  float* d = nullptr;
  float* bias = nullptr;
  float* a_slowest = nullptr;
  DeltaSums sums;

 private:
  Buffer buffer_;
};

/// Rows [first, first + count) of one batch item and head, elements [begin, begin + dim), as float32 `stride` apart.
void stage(const AnyView& view, std::int64_t batch, std::int64_t head, const TokenRun& tokens, std::int64_t begin,
           std::int64_t dim, std::size_t stride, float* to) {
  const std::size_t skip = static_cast<std::size_t>(begin) * size_of(view.type);
  for (std::int64_t token = tokens.begin; token < tokens.end; ++token, to += stride) {
    convert_elements(view.row(batch, token, head) + skip, view.type, to, ElementType::kFloat32,
                     static_cast<std::size_t>(dim));
  }
}

class CpuSsmKernels final : public SsmKernels {
 public:
  void scan(const ScanInputs& inputs, const ScanSummary& state, TensorView<float> y, Heartbeat& heartbeat) override;
  std::int64_t add_incoming(const ScanInputs& inputs, const float* h_in, TensorView<float> y,
                            Heartbeat& heartbeat) override;
  void join(const float* a, std::int64_t batch, std::int64_t channels, std::int64_t d_state, const ScanSummary& near,
            const ScanSummary& far) const override;
  void convert(const AnyView& from, const MutableAnyView& to) const override;
  void conv1d(const ConvTask& task) const override;
  void project(const ProjectTask& task) const override { cpu::project(task); }
  std::size_t scratch_bytes(std::int64_t d_state) const override {
    return Workspace::bytes(static_cast<std::size_t>(d_state));
  }

 private:
  void load_parameters(const ScanInputs& inputs, const ChannelBlock& block);
  void load_state(const ScanInputs& inputs, const ChannelBlock& block, std::int64_t batch, const float* h);
  void store_state(const ScanInputs& inputs, const ChannelBlock& block, std::int64_t batch, float* h) const;
  ScanRows rows_of(const AnyView& view, const ChannelBlock& block, std::int64_t batch, const TokenRun& tokens,
                   float* scratch) const;
  ScanBlock load_tokens(const ScanInputs& inputs, const ChannelBlock& block, std::int64_t batch, const TokenRun& tokens,
                        const TensorView<float>& y);
  void store_y(const ChannelBlock& block, std::int64_t batch, const TokenRun& tokens, const TensorView<float>& y) const;

  const SsmOps& ops_ = ssm_ops();
  Workspace work_;
};

void CpuSsmKernels::load_parameters(const ScanInputs& inputs, const ChannelBlock& block) {
  const auto d_state = static_cast<std::size_t>(inputs.d_state());
  work_.reserve(d_state);
  for (std::size_t i = 0; i < static_cast<std::size_t>(block.count); ++i) {
    const auto channel = static_cast<std::size_t>(block.begin) + i;
    if (inputs.d != nullptr) work_.d[i] = inputs.d[channel];
    if (inputs.delta_bias != nullptr) work_.bias[i] = inputs.delta_bias[channel];
    float slowest = -HUGE_VALF;
    for (std::size_t n = 0; n < d_state; ++n) {
      const auto a_log2 = static_cast<float>(std::numbers::log2e * inputs.a[channel * d_state + n]);
      *work_.state(i, n, d_state) = a_log2;
      slowest = std::max(slowest, a_log2);
    }
    work_.a_slowest[i] = slowest;
  }
  // Lanes past the last channel are to end the correction as soon as all others have.
  for (std::size_t i = static_cast<std::size_t>(block.count); i < block.padded(); ++i) work_.a_slowest[i] = -1e30f;
}

void CpuSsmKernels::load_state(const ScanInputs& inputs, const ChannelBlock& block, std::int64_t batch,
                               const float* h) {
  const auto d_state = static_cast<std::size_t>(inputs.d_state());
  const float* from = h + (batch * inputs.channels() + block.begin) * inputs.d_state();
  for (std::size_t i = 0; i < static_cast<std::size_t>(block.count); ++i) {
    for (std::size_t n = 0; n < d_state; ++n) work_.state(i, n, d_state)[kSsmLanes] = from[i * d_state + n];
  }
  std::fill_n(work_.sums.high, kSsmChannels, 0.0f);
  std::fill_n(work_.sums.low, kSsmChannels, 0.0f);
}

void CpuSsmKernels::store_state(const ScanInputs& inputs, const ChannelBlock& block, std::int64_t batch,
                                float* h) const {
  const auto d_state = static_cast<std::size_t>(inputs.d_state());
  float* to = h + (batch * inputs.channels() + block.begin) * inputs.d_state();
  for (std::size_t i = 0; i < static_cast<std::size_t>(block.count); ++i) {
    for (std::size_t n = 0; n < d_state; ++n) to[i * d_state + n] = work_.state(i, n, d_state)[kSsmLanes];
  }
}

ScanRows CpuSsmKernels::rows_of(const AnyView& view, const ChannelBlock& block, std::int64_t batch,
                                const TokenRun& tokens, float* scratch) const {
  if (view.data == nullptr) return {};
  if (view.type == ElementType::kFloat32 && block.is_whole_vectors()) {
    return {reinterpret_cast<const float*>(view.row(batch, tokens.begin, 0)) + block.begin,
            static_cast<std::size_t>(view.strides[1])};
  }
  stage(view, batch, 0, tokens, block.begin, block.count, kSsmChannels, scratch);
  return {scratch, kSsmChannels};
}

ScanBlock CpuSsmKernels::load_tokens(const ScanInputs& inputs, const ChannelBlock& block, std::int64_t batch,
                                     const TokenRun& tokens, const TensorView<float>& y) {
  ScanBlock loaded;
  loaded.tokens = static_cast<std::size_t>(tokens.size());
  loaded.channels = block.padded();
  loaded.d_state = static_cast<std::size_t>(inputs.d_state());
  const AnyView y_view{reinterpret_cast<const std::byte*>(y.data), ElementType::kFloat32, y.shape, y.strides};
  loaded.u = rows_of(inputs.u, block, batch, tokens, work_.u);
  loaded.delta = rows_of(inputs.delta, block, batch, tokens, work_.delta);
  loaded.z = rows_of(inputs.z, block, batch, tokens, work_.z);
  const bool in_place = block.is_whole_vectors() && loaded.u.data != work_.u && loaded.delta.data != work_.delta &&
                        loaded.z.data != work_.z;
  loaded.last_token = static_cast<std::size_t>((in_place ? inputs.tokens() : tokens.end) - tokens.begin - 1);
  stage(inputs.b, batch, block.group, tokens, 0, inputs.d_state(), loaded.d_state, work_.b);
  stage(inputs.c, batch, block.group, tokens, 0, inputs.d_state(), loaded.d_state, work_.c);
  loaded.b = work_.b;
  loaded.c = work_.c;
  loaded.d = work_.d;
  loaded.bias = work_.bias;
  loaded.states = work_.states;
  if (block.is_whole_vectors()) {
    loaded.y = y.row(batch, tokens.begin, 0) + block.begin;
    loaded.y_stride = static_cast<std::size_t>(y.strides[1]);
  } else {
    stage(y_view, batch, 0, tokens, block.begin, block.count, kSsmChannels, work_.y);
    loaded.y = work_.y;
    loaded.y_stride = kSsmChannels;
  }
  return loaded;
}

void CpuSsmKernels::store_y(const ChannelBlock& block, std::int64_t batch, const TokenRun& tokens,
                            const TensorView<float>& y) const {
  if (block.is_whole_vectors()) return;  // it was computed in its place
  for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
    std::copy_n(work_.y + static_cast<std::size_t>(token - tokens.begin) * kSsmChannels, block.count,
                y.row(batch, token, 0) + block.begin);
  }
}

template <typename Body>
void for_token_blocks(std::int64_t tokens, Body&& body) {
  constexpr auto kStep = static_cast<std::int64_t>(kSsmTokens);
  for (std::int64_t begin = 0; begin < tokens; begin += kStep) {
    if (!body(TokenRun{begin, std::min(tokens, begin + kStep)})) return;
  }
}

void CpuSsmKernels::scan(const ScanInputs& inputs, const ScanSummary& state, TensorView<float> y,
                         Heartbeat& heartbeat) {
  check(inputs, y);
  const FlushDenormals flush;
  for (const ChannelBlock& block : channel_blocks(inputs)) {
    load_parameters(inputs, block);
    for (std::int64_t batch = 0; batch < inputs.batch(); ++batch) {
      load_state(inputs, block, batch, state.h);
      for_token_blocks(inputs.tokens(), [&](const TokenRun& tokens) {
        ops_.scan(load_tokens(inputs, block, batch, tokens, y), work_.sums);
        store_y(block, batch, tokens, y);
        heartbeat.beat();
        return true;
      });
      store_state(inputs, block, batch, state.h);
      if (state.delta_sum == nullptr) continue;
      float* sums = state.delta_sum + batch * inputs.channels() + block.begin;
      for (std::int64_t i = 0; i < block.count; ++i) sums[i] = work_.sums.high[i] - work_.sums.low[i];
    }
  }
}

std::int64_t CpuSsmKernels::add_incoming(const ScanInputs& inputs, const float* h_in, TensorView<float> y,
                                         Heartbeat& heartbeat) {
  check(inputs, y);
  const FlushDenormals flush;
  std::int64_t visited = 0;
  for (const ChannelBlock& block : channel_blocks(inputs)) {
    load_parameters(inputs, block);
    for (std::int64_t batch = 0; batch < inputs.batch(); ++batch) {
      load_state(inputs, block, batch, h_in);
      for_token_blocks(inputs.tokens(), [&](const TokenRun& tokens) {
        const ScanBlock loaded = load_tokens(inputs, block, batch, tokens, y);
        if (!ops_.incoming(loaded, work_.a_slowest, work_.sums)) return false;
        store_y(block, batch, tokens, y);
        visited += tokens.size() * block.count;
        heartbeat.beat();
        return true;
      });
    }
  }
  return visited;
}

void CpuSsmKernels::join(const float* a, std::int64_t batch, std::int64_t channels, std::int64_t d_state,
                         const ScanSummary& near, const ScanSummary& far) const {
  for (std::int64_t i = 0; i < batch * channels; ++i) {
    for (std::int64_t n = 0; n < d_state; ++n) {
      const double exponent = static_cast<double>(a[(i % channels) * d_state + n]) * near.delta_sum[i];
      float& h = near.h[i * d_state + n];
      h = static_cast<float>(std::exp(exponent) * far.h[i * d_state + n] + h);
    }
    near.delta_sum[i] += far.delta_sum[i];
  }
}

void CpuSsmKernels::convert(const AnyView& from, const MutableAnyView& to) const {
  const Shape4& shape = from.shape;
  require(to.shape == shape, "views of one shape");
  if (element_count(shape) == 0) return;
  const auto count = [](std::int64_t elements) { return static_cast<std::size_t>(elements); };
  if (from.strides == dense_strides(shape) && to.strides == from.strides) {
    return convert_elements(from.data, from.type, to.data, to.type, count(element_count(shape)));
  }
  for (std::int64_t batch = 0; batch < shape[0]; ++batch) {
    for (std::int64_t token = 0; token < shape[1]; ++token) {
      for (std::int64_t head = 0; head < shape[2]; ++head) {
        convert_elements(from.row(batch, token, head), from.type, to.row(batch, token, head), to.type, count(shape[3]));
      }
    }
  }
}

void CpuSsmKernels::conv1d(const ConvTask& task) const {
  const FlushDenormals flush;
  const std::int64_t channels = task.in.shape[3];
  const auto width = static_cast<std::size_t>(task.width);
  const auto count = static_cast<std::size_t>(channels);
  require(task.width >= 1 && task.out.shape == task.in.shape, "a convolution's output shaped as its input");
  require(task.halo.shape[1] == task.width - 1 && task.halo.shape[3] == channels, "width - 1 inputs before the first");
  std::vector<float> weight(width * count), bias(count, 0.0f);
  for (std::size_t k = 0; k < width; ++k) {
    for (std::size_t i = 0; i < count; ++i) weight[k * count + i] = task.weight[i * width + k];
  }
  if (task.bias != nullptr) std::copy_n(task.bias, count, bias.begin());
  std::vector<const float*> rows(width);
  for (std::int64_t batch = 0; batch < task.in.shape[0]; ++batch) {
    for (std::int64_t token = 0; token < task.in.shape[1]; ++token) {
      for (std::int64_t k = 0; k < task.width; ++k) {
        const std::int64_t source = token - task.width + 1 + k;
        rows[static_cast<std::size_t>(k)] =
            source >= 0 ? task.in.row(batch, source, 0) : task.halo.row(batch, source + task.width - 1, 0);
      }
      ops_.conv_row(rows.data(), weight.data(), bias.data(), width, count, task.out.row(batch, token, 0));
    }
  }
}

}  // namespace

ScanInputs ScanInputs::slice(std::int64_t first, std::int64_t count) const {
  ScanInputs part = *this;
  for (AnyView* view : {&part.u, &part.delta, &part.z}) {
    if (view->data == nullptr) continue;
    view->data += first * static_cast<std::int64_t>(size_of(view->type));
    view->shape[3] = count;
  }
  part.first_channel += first;
  part.a += first * d_state();
  if (d != nullptr) part.d += first;
  if (delta_bias != nullptr) part.delta_bias += first;
  return part;
}

std::unique_ptr<SsmKernels> make_cpu_ssm_kernels() {
  return std::make_unique<CpuSsmKernels>();
}

}  // namespace ringscan
