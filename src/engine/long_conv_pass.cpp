#include "engine/long_conv_pass.hpp"

#include <algorithm>
#include <memory>
#include <optional>

#include "core/stopwatch.hpp"
#include "core/token_run.hpp"
#include "engine/block_rows.hpp"
#include "engine/channel_carrier.hpp"
#include "engine/halo.hpp"

namespace ringscan {
namespace {

constexpr std::int64_t kMostDirectTaps = 64;
constexpr std::int64_t kBlockBytes = std::int64_t{32} << 20;

/// Channels that go through the all-to-all together.
std::int64_t block_channels(const SequenceLayout& layout, std::int64_t channels, std::int64_t width) {
  const std::int64_t line_bytes = (layout.seq_len() + width) * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t lines = std::max<std::int64_t>(1, kBlockBytes / line_bytes);
  return std::min(channels, lines * layout.world_size());
}

/// Lines of a block that are convolved together.
std::int64_t lines_together(const SequenceLayout& layout, std::int64_t block, std::int64_t width,
                            const ChelaKernels& kernels) {
  const std::int64_t most = ceil_div(block, static_cast<std::int64_t>(layout.world_size()));
  return std::clamp<std::int64_t>(kernels.lines_at_once(layout.seq_len(), width), 1, most);
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
        before_(task.width - 1),
        space_(kernels.work_memory()) {}

  LongConvResult run() {
    if (task_.layout->seq_len() == 0 || channels_ == 0) return result_;
    switch (choose_long_conv(*task_.layout, task_.width, task_.reproducible)) {
      case LongConvMethod::kDirect:
        carry(true);
        timed(result_.compute_seconds, SpanKind::kCompute, [&] { convolve_directly(); });
        break;
      case LongConvMethod::kHalo:
        if (!space_.is_host() && transport_.carries(space_)) {
          convolve_own_there();
          break;
        }
        carry(false);
        timed(result_.compute_seconds, SpanKind::kCompute, [&] { convolve_own(); });
        break;
      case LongConvMethod::kAllToAll:
        convolve_whole();
        break;
    }
    return result_;
  }

 private:
  /// The inputs before this rank's tokens. Zeros may stay away where no one wants them: they may be as long as the
  /// kernel.
  void carry(bool wants_zeros) {
    const HaloSchedule schedule = make_halo_schedule(*task_.layout, transport_.rank(), before_);
    if (wants_zeros || task_.past.data != nullptr || !schedule.receives.empty()) {
      halo_ = Buffer(floats_bytes(batch_ * before_ * channels_), ledger_);
    }
    TokenRows own = own_rows();
    Buffer tail;
    const AddSeconds adder(result_.exposed_seconds);
    if (!schedule.sends.empty()) own = tail_on_host(own, before_, space_, ledger_, tail);
    result_.sent_bytes +=
        carry_halo(schedule, own, task_.past,
                   dense_view(halo_.as<float>(), {batch_, schedule.halo.size(), 1, channels_}), transport_);
  }

  TokenRows own_rows() const {
    return {task_.layout->chunks(transport_.rank())[0].run,
            {task_.values.data, task_.values.shape, task_.values.strides}};
  }
  TensorView<const float> halo() const { return dense_view(halo_.as<float>(), {batch_, before_, 1, channels_}); }
  void settle() const {
    Heartbeat heartbeat;
    kernels_.settle(heartbeat);
  }

  void convolve_directly() {
    Buffer out = floats_buffer(batch_ * tokens_ * channels_, space_, ledger_);
    if (tokens_ == 0) return;
    PlainConvTask conv;
    conv.halo = halo();
    conv.in = {task_.values.data, task_.values.shape, task_.values.strides};
    conv.out = dense_view(out.as<float>(), task_.values.shape);
    conv.taps = task_.taps;
    conv.width = task_.width;
    kernels_.convolve(conv);
    const std::size_t row_bytes = floats_bytes(channels_);
    space_.copy_rows(task_.values.data, row_bytes, out.data(), row_bytes, row_bytes,
                     static_cast<std::size_t>(batch_ * tokens_));
    settle();
  }

  /// FFT of this rank's tokens, with the halo before them.
  void convolve_own() {
    if (tokens_ == 0) return;
    kernels_.plan_convolution(tokens_, task_.width, channels_)->run(RowsConvTask{halo(), task_.values, task_.taps});
    settle();
  }

  /// Where the halo is to lie in work memory: of the first tokens' rank what stands before the sequence, copied there.
  void place_halo(const HaloSchedule& schedule) {
    const bool has_past = schedule.receives.empty() && task_.past.data != nullptr;
    if (schedule.receives.empty() && !has_past) return;  // zeros need no memory
    halo_ = floats_buffer(batch_ * before_ * channels_, space_, ledger_);
    for (std::int64_t batch = 0; batch < batch_ && has_past; ++batch) {
      const std::int64_t item = before_ * channels_;
      space_.copy_in(halo_.as<float>() + batch * item, task_.past.row(batch, 0, 0), floats_bytes(item));
    }
  }

  /// Likewise without the host: the halo goes from work memory to work memory, and where that has a queue, the queue
  /// alone waits for it.
  void convolve_own_there() {
    if (tokens_ == 0) return;
    // Made first and given up last: either may wait for the device, which does not end by itself where a rank fails
    // while its halo is wanted.
    const auto plan = timed(result_.compute_seconds, SpanKind::kCompute,
                            [&] { return kernels_.plan_convolution(tokens_, task_.width, channels_); });
    const HaloSchedule schedule = make_halo_schedule(*task_.layout, transport_.rank(), before_);
    std::optional<MovingHalo> moving;
    timed(result_.exposed_seconds, [&] {
      place_halo(schedule);
      moving.emplace(schedule, own_rows(), dense_view(halo_.as<float>(), {batch_, before_, 1, channels_}), transport_);
    });
    result_.sent_bytes += moving->sent_bytes();
    // What a queue waits for is counted there, see below.
    const bool has_queue = space_.work_queue() != nullptr;
    timed(has_queue ? result_.compute_seconds : result_.exposed_seconds, [&] { moving->order(); });
    timed(result_.compute_seconds, SpanKind::kCompute, [&] {
      plan->run(RowsConvTask{halo(), task_.values, task_.taps});
      kernels_.settle(*moving);
    });
    timed(result_.exposed_seconds, [&] { moving->wait(); });
    const double waited = transport_.take_queue_seconds();
    result_.exposed_seconds += waited;
    result_.compute_seconds -= waited;
  }

  void convolve_whole() {
    const SequenceLayout& layout = *task_.layout;
    const SequenceLayout past = past_layout(layout, task_.width);
    const std::int64_t block = block_channels(layout, channels_, task_.width);
    ChannelCarrier carrier(layout, block, transport_, kernels_, ledger_);
    std::optional<ChannelCarrier> past_carrier;
    if (task_.past.data != nullptr) past_carrier.emplace(past, block, transport_, kernels_, ledger_);
    const std::int64_t lines = lines_together(layout, block, task_.width, kernels_);
    const auto plan = kernels_.plan_convolution(layout.seq_len(), task_.width, lines);
    Buffer line_buffer(floats_bytes(lines * (layout.seq_len() + before_)), ledger_);
    for (std::int64_t first = 0; first < channels_; first += block) {
      const ChannelRun run{first, std::min(channels_, first + block)};
      for (std::int64_t batch = 0; batch < batch_; ++batch) {
        float* const rows = task_.values.row(batch, 0, 0);
        timed(result_.exposed_seconds, [&] {
          if (past_carrier) past_carrier->carry_there(run, task_.past.row(batch, 0, 0), channels_);
          carrier.carry_there(run, rows, channels_);
        });
        timed(result_.compute_seconds, SpanKind::kCompute, [&] {
          const ChannelRun& own = carrier.channels();
          for (std::int64_t c = own.begin; c < own.end; c += lines) {
            convolve_lines({c, std::min(own.end, c + lines)}, carrier, past_carrier ? &*past_carrier : nullptr,
                           line_buffer.as<float>(), *plan);
          }
        });
        timed(result_.exposed_seconds, [&] { carrier.carry_back(rows, channels_); });
      }
    }
    result_.sent_bytes += carrier.sent_bytes() + (past_carrier ? past_carrier->sent_bytes() : 0);
  }

  /// `buffer` has place for these channels' lines over the sequence and before it.
  void convolve_lines(const ChannelRun& channels, ChannelCarrier& carrier, const ChannelCarrier* past_carrier,
                      float* buffer, LongConvolution& plan) const {
    const std::int64_t seq_len = task_.layout->seq_len();
    float* const pasts = buffer + channels.size() * seq_len;
    const auto line = [](float* lines, std::int64_t i, std::int64_t length) {
      return std::span<float>(lines + i * length, static_cast<std::size_t>(length));
    };
    for (std::int64_t i = 0; i < channels.size(); ++i) {
      if (past_carrier != nullptr) past_carrier->load_line(channels.begin + i, line(pasts, i, before_));
      carrier.load_line(channels.begin + i, line(buffer, i, seq_len));
    }
    plan.run(LinesConvTask{past_carrier != nullptr ? pasts : nullptr, buffer, task_.taps + channels.begin * task_.width,
                           channels.size()});
    for (std::int64_t i = 0; i < channels.size(); ++i) {
      carrier.store_line(channels.begin + i, line(buffer, i, seq_len));
    }
  }

  const LongConvPassTask& task_;
  Transport& transport_;
  const ChelaKernels& kernels_;
  MemoryLedger* ledger_;
  std::int64_t batch_;
  std::int64_t tokens_;
  std::int64_t channels_;
  std::int64_t before_;
  MemorySpace& space_;  // of the values
  Buffer halo_;         // [batch, width - 1, channels]
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
  // And in messages; out of a device's memory, too. Where the transport carries that, there is one halo, there; whoever
  // plans does not know.
  const int copies = kernels.work_memory().is_host() ? 2 : 3;
  const std::size_t halo = floats_bytes(copies * batch * (width - 1) * channels);
  switch (choose_long_conv(layout, width, reproducible)) {
    case LongConvMethod::kDirect:
      return halo + floats_bytes(batch * tokens * channels + channels * width);
    case LongConvMethod::kHalo:
      return halo + kernels.convolution_bytes(tokens, width);
    case LongConvMethod::kAllToAll:
      break;
  }
  const std::int64_t block = block_channels(layout, channels, width);
  return ChannelCarrier::bytes(layout, block) + ChannelCarrier::bytes(past_layout(layout, width), block) +
         floats_bytes(lines_together(layout, block, width, kernels) * (layout.seq_len() + width)) +
         kernels.convolution_bytes(layout.seq_len(), width);
}

std::int64_t long_conv_block_channels(const SequenceLayout& layout, std::int64_t channels, std::int64_t width) {
  return block_channels(layout, channels, width);
}

}  // namespace ringscan
