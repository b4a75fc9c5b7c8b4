#include "engine/long_conv_pass.hpp"

#include <algorithm>
#include <memory>
#include <optional>

#include "core/stopwatch.hpp"
#include "engine/channel_carrier.hpp"
#include "engine/halo.hpp"

namespace ringscan {
namespace {

constexpr std::int64_t kMostDirectTaps = 64;
constexpr std::int64_t kBlockBytes = std::int64_t{32} << 20;

std::size_t floats_bytes(std::int64_t count) {
  return static_cast<std::size_t>(count) * sizeof(float);
}

/// Channels that go through the all-to-all together.
std::int64_t block_channels(const SequenceLayout& layout, std::int64_t channels, std::int64_t width) {
  const std::int64_t line_bytes = (layout.seq_len() + width) * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t lines = std::max<std::int64_t>(1, kBlockBytes / line_bytes);
  return std::min(channels, lines * layout.world_size());
}

SequenceLayout past_layout(const SequenceLayout& layout, std::int64_t width) {
  return SequenceLayout(LayoutKind::kContiguous, width - 1, layout.world_size(), 1);
}

class LongConvPass {
 public:
  LongConvPass(const LongConvPassTask& task, Transport& transport, const ChelaKernels& kernels, MemoryLedger* ledger)
      : task_(task),
        transport_(transport),
        kernels_(kernels),
        ledger_(ledger),
        batch_(task.values.shape[0]),
        tokens_(task.values.shape[1]),
        channels_(task.values.shape[3]),
        before_(task.width - 1) {}

  LongConvResult run() {
    if (task_.layout->seq_len() == 0 || channels_ == 0) return result_;
    switch (choose_long_conv(*task_.layout, task_.width, task_.reproducible)) {
      case LongConvMethod::kDirect:
        carry();
        timed(result_.compute_seconds, SpanKind::kCompute, [&] { convolve_directly(); });
        break;
      case LongConvMethod::kHalo:
        carry();
        timed(result_.compute_seconds, SpanKind::kCompute, [&] { convolve_own(); });
        break;
      case LongConvMethod::kAllToAll:
        convolve_whole();
        break;
    }
    return result_;
  }

 private:
  std::span<const float> taps_of(std::int64_t channel) const {
    return {task_.taps + channel * task_.width, static_cast<std::size_t>(task_.width)};
  }

  /// The inputs before this rank's tokens.
  void carry() {
    const HaloSchedule schedule = make_halo_schedule(*task_.layout, transport_.rank(), before_);
    halo_ = Buffer(floats_bytes(batch_ * before_ * channels_), ledger_);
    TokenRows own;
    own.tokens = task_.layout->chunks(transport_.rank())[0].run;
    own.rows = {task_.values.data, task_.values.shape, task_.values.strides};
    const AddSeconds adder(result_.exposed_seconds);
    result_.sent_bytes +=
        carry_halo(schedule, own, task_.past,
                   dense_view(halo_.as<float>(), {batch_, schedule.halo.size(), 1, channels_}), transport_);
  }

  void convolve_directly() {
    Buffer out(floats_bytes(batch_ * tokens_ * channels_), ledger_);
    if (tokens_ == 0) return;
    PlainConvTask conv;
    conv.halo = dense_view<const float>(halo_.as<float>(), {batch_, before_, 1, channels_});
    conv.in = {task_.values.data, task_.values.shape, task_.values.strides};
    conv.out = dense_view(out.as<float>(), task_.values.shape);
    conv.taps = task_.taps;
    conv.width = task_.width;
    kernels_.convolve(conv);
    std::copy_n(out.as<float>(), batch_ * tokens_ * channels_, task_.values.data);
  }

  /// FFT of this rank's tokens, with the halo before them.
  void convolve_own() {
    if (tokens_ == 0) return;
    const auto plan = kernels_.plan_convolution(tokens_, task_.width);
    const SequenceLayout own(LayoutKind::kContiguous, tokens_, 1, 1);
    Buffer line_buffer(floats_bytes(tokens_ + before_), ledger_);
    const std::span<float> line(line_buffer.as<float>(), static_cast<std::size_t>(tokens_));
    const std::span<float> past(line_buffer.as<float>() + tokens_, static_cast<std::size_t>(before_));
    for (std::int64_t channel = 0; channel < channels_; ++channel) {
      plan->set_taps(taps_of(channel));
      for (std::int64_t batch = 0; batch < batch_; ++batch) {
        float* const column = task_.values.row(batch, 0, 0) + channel;
        const float* const before = halo_.as<float>() + batch * before_ * channels_ + channel;
        for (std::int64_t t = 0; t < tokens_; ++t) line[static_cast<std::size_t>(t)] = column[t * channels_];
        for (std::int64_t t = 0; t < before_; ++t) past[static_cast<std::size_t>(t)] = before[t * channels_];
        plan->run(past, line);
        for (std::int64_t t = 0; t < tokens_; ++t) column[t * channels_] = line[static_cast<std::size_t>(t)];
      }
    }
  }

  void convolve_whole() {
    const SequenceLayout& layout = *task_.layout;
    const SequenceLayout past = past_layout(layout, task_.width);
    const std::int64_t block = block_channels(layout, channels_, task_.width);
    ChannelCarrier carrier(layout, block, transport_, ledger_);
    std::optional<ChannelCarrier> past_carrier;
    if (task_.past.data != nullptr) past_carrier.emplace(past, block, transport_, ledger_);
    const auto plan = kernels_.plan_convolution(layout.seq_len(), task_.width);
    Buffer line_buffer(floats_bytes(layout.seq_len() + before_), ledger_);
    const std::span<float> line(line_buffer.as<float>(), static_cast<std::size_t>(layout.seq_len()));
    const std::span<float> past_line(line_buffer.as<float>() + layout.seq_len(),
                                     static_cast<std::size_t>(past_carrier ? before_ : 0));
    for (std::int64_t first = 0; first < channels_; first += block) {
      const ChannelRun run{first, std::min(channels_, first + block)};
      for (std::int64_t batch = 0; batch < batch_; ++batch) {
        float* const rows = task_.values.row(batch, 0, 0);
        timed(result_.exposed_seconds, [&] {
          if (past_carrier) past_carrier->carry_there(run, task_.past.row(batch, 0, 0), channels_);
          carrier.carry_there(run, rows, channels_);
        });
        timed(result_.compute_seconds, SpanKind::kCompute, [&] {
          for (std::int64_t c = carrier.channels().begin; c < carrier.channels().end; ++c) {
            if (past_carrier) past_carrier->load_line(c, past_line);
            carrier.load_line(c, line);
            plan->set_taps(taps_of(c));
            plan->run(past_line, line);
            carrier.store_line(c, line);
          }
        });
        timed(result_.exposed_seconds, [&] { carrier.carry_back(rows, channels_); });
      }
    }
    result_.sent_bytes += carrier.sent_bytes() + (past_carrier ? past_carrier->sent_bytes() : 0);
  }

  const LongConvPassTask& task_;
  Transport& transport_;
  const ChelaKernels& kernels_;
  MemoryLedger* ledger_;
  std::int64_t batch_;
  std::int64_t tokens_;
  std::int64_t channels_;
  std::int64_t before_;
  Buffer halo_;  // [batch, width - 1, channels]
  LongConvResult result_;
};

}  // namespace

LongConvMethod choose_long_conv(const SequenceLayout& layout, std::int64_t width, bool reproducible) {
  if (width <= kMostDirectTaps) return LongConvMethod::kDirect;
  if (reproducible) return LongConvMethod::kAllToAll;
  std::int64_t shortest = layout.seq_len();
  for (int rank = 0; rank < layout.world_size(); ++rank) {
    const std::int64_t tokens = layout.local_tokens(rank);
    if (tokens > 0) shortest = std::min(shortest, tokens);
  }
  // There and back each element moves twice, but for the part that stays.
  const bool moves_less = (width - 1) * layout.world_size() <= 2 * shortest * (layout.world_size() - 1);
  const bool is_halo = layout.world_size() == 1 || (width - 1 <= shortest && moves_less);
  return is_halo ? LongConvMethod::kHalo : LongConvMethod::kAllToAll;
}

TokenRun wanted_past(const SequenceLayout& layout, std::int64_t width, bool reproducible, int rank) {
  if (choose_long_conv(layout, width, reproducible) != LongConvMethod::kAllToAll) return {0, width - 1};
  return past_layout(layout, width).chunks(rank)[0].run;
}

LongConvResult run_long_conv_pass(const LongConvPassTask& task, Transport& transport, const ChelaKernels& kernels,
                                  MemoryLedger* ledger) {
  return LongConvPass(task, transport, kernels, ledger).run();
}

std::size_t long_conv_pass_bytes(const SequenceLayout& layout, std::int64_t batch, std::int64_t channels,
                                 std::int64_t width, bool reproducible, const ChelaKernels& kernels) {
  const std::int64_t tokens = layout.max_local_tokens();
  if (layout.seq_len() == 0) return 0;
  const std::size_t halo = floats_bytes(2 * batch * (width - 1) * channels);  // and in messages
  switch (choose_long_conv(layout, width, reproducible)) {
    case LongConvMethod::kDirect:
      return halo + floats_bytes(batch * tokens * channels + channels * width);
    case LongConvMethod::kHalo:
      return halo + floats_bytes(tokens + width) + kernels.convolution_bytes(tokens, width);
    case LongConvMethod::kAllToAll:
      break;
  }
  const std::int64_t block = block_channels(layout, channels, width);
  return ChannelCarrier::bytes(layout, block) + ChannelCarrier::bytes(past_layout(layout, width), block) +
         floats_bytes(layout.seq_len() + width) + kernels.convolution_bytes(layout.seq_len(), width);
}

std::int64_t long_conv_block_channels(const SequenceLayout& layout, std::int64_t channels, std::int64_t width) {
  return block_channels(layout, channels, width);
}

}  // namespace ringscan
