#include "engine/ssm_pass.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "comm/scan_schedule.hpp"
#include "core/stopwatch.hpp"

namespace ringscan {
namespace {

/// Channels of a block under `reproducible`: enough blocks that all ranks have work, none too small for the kernels.
std::int64_t block_channels(std::int64_t channels, std::size_t ranks) {
  constexpr std::int64_t kLeast = 16;
  constexpr std::int64_t kMost = 256;
  constexpr std::int64_t kBlocksARank = 4;
  const std::int64_t even = channels / (kBlocksARank * static_cast<std::int64_t>(ranks)) / kLeast * kLeast;
  return std::clamp(even, kLeast, kMost);
}

std::size_t summary_floats(std::int64_t batch, std::int64_t channels, std::int64_t d_state) {
  return static_cast<std::size_t>(batch * channels * (1 + d_state));
}

/// Sums of delta, then states, in one message.
class SummaryBuffer {
 public:
  SummaryBuffer(const ScanInputs& inputs, MemoryLedger* ledger)
      : sums_(static_cast<std::size_t>(inputs.batch() * inputs.channels())),
        buffer_(summary_floats(inputs.batch(), inputs.channels(), inputs.d_state()) * sizeof(float), ledger) {
    buffer_.fill_zero();
  }
  ScanSummary view() { return {buffer_.as<float>(), buffer_.as<float>() + sums_}; }
  std::span<std::byte> bytes() { return buffer_.bytes(); }
  std::size_t states() const { return buffer_.size_bytes() / sizeof(float) - sums_; }

 private:
  std::size_t sums_;
  Buffer buffer_;
};

class SsmPass {
 public:
  SsmPass(const SsmPassTask& task, Transport& transport, SsmKernels& kernels, MemoryLedger* ledger,
          Heartbeat& heartbeat)
      : task_(task),
        in_(task.inputs),
        transport_(transport),
        kernels_(kernels),
        ledger_(ledger),
        heartbeat_(heartbeat),
        participants_(scan_participants(*task.layout)) {}

  SsmPassResult run() {
    const auto self = std::find(participants_.begin(), participants_.end(), transport_.rank());
    if (self == participants_.end()) return result_;
    prev_rank_ = self == participants_.begin() ? -1 : *(self - 1);
    next_rank_ = self + 1 == participants_.end() ? -1 : *(self + 1);
    if (task_.reproducible) {
      run_chained();
    } else if (kernels_.summarizes_first()) {
      run_summarized();
    } else {
      run_scanned();
    }
    return result_;
  }

 private:
  bool is_first() const { return prev_rank_ < 0; }
  bool is_last() const { return next_rank_ < 0; }

  /// Everyone scans from nothing, and adds what was missing.
  void run_scanned() {
    SummaryBuffer through = starting_summary();
    scan(through.view(), task_.y);
    {
      SummaryBuffer before(in_, ledger_);
      if (carry(through, before)) {
        timed(result_.compute_seconds, SpanKind::kCompute,
              [&] { result_.corrected += kernels_.add_incoming(in_, before.view().h, task_.y, heartbeat_); });
      }
    }
    keep_final(through);
  }

  /// Where a summary costs little: nothing is computed that has to be made up for.
  void run_summarized() {
    SummaryBuffer through = starting_summary();
    if (!is_last()) scan(through.view(), {});
    SummaryBuffer before = starting_summary();
    carry(through, before);
    scan({nullptr, before.view().h}, task_.y);
    keep_final(before);
  }

  /// What stands before this rank's tokens as far as it knows by itself.
  SummaryBuffer starting_summary() {
    SummaryBuffer summary(in_, ledger_);
    if (is_first() && task_.initial_state != nullptr) {
      std::copy_n(task_.initial_state, summary.states(), summary.view().h);
    }
    return summary;
  }

  void scan(const ScanSummary& state, const TensorView<float>& y) {
    timed(result_.compute_seconds, SpanKind::kCompute, [&] { kernels_.scan(in_, state, y, heartbeat_); });
  }

  /// From each rank's own summary, those of the ranks before it: `before` becomes what stands before this rank's
  /// tokens, and `through` what stands behind them. False, and `before` as it was, on the first.
  bool carry(SummaryBuffer& through, SummaryBuffer& before) {
    const ScanSchedule schedule = make_scan_schedule(ScanKind::kLogarithmic, *task_.layout, transport_.rank());
    if (schedule.empty()) return false;
    SummaryBuffer far(in_, ledger_);
    bool has_before = false;
    for (const ScanStep& step : schedule) {
      timed(result_.exposed_seconds, [&] { exchange(step, through, far); });
      if (step.recv_from < 0) continue;
      join(through, far);
      if (has_before) {
        join(before, far);
      } else {
        std::swap(before, far);
        has_before = true;
      }
    }
    return has_before;
  }

  void keep_final(SummaryBuffer& behind) {
    if (!is_last() || task_.final_state == nullptr) return;
    std::copy_n(behind.view().h, behind.states(), task_.final_state);
  }

  void exchange(const ScanStep& step, SummaryBuffer& through, SummaryBuffer& far) {
    Transfer transfer;
    transfer.to_rank = step.send_to;
    transfer.from_rank = step.recv_from;
    if (step.send_to >= 0) {
      transfer.send = through.bytes();
      result_.sent_bytes += transfer.send.size();
    }
    if (step.recv_from >= 0) transfer.receive = far.bytes();
    transport_.exchange(transfer).wait();
  }

  void join(SummaryBuffer& near, SummaryBuffer& far) {
    kernels_.join(in_.a, in_.batch(), in_.channels(), in_.d_state(), near.view(), far.view());
  }

  void run_chained() {
    Buffer states(summary_floats(in_.batch(), in_.channels(), in_.d_state()) * sizeof(float), ledger_);
    float* block_state = states.as<float>();
    std::vector<Ticket> sending;
    const std::int64_t step = block_channels(in_.channels(), participants_.size());
    for (std::int64_t first = 0; first < in_.channels(); first += step) {
      const std::int64_t count = std::min(step, in_.channels() - first);
      const std::span state(block_state, static_cast<std::size_t>(in_.batch() * count * in_.d_state()));
      timed(result_.exposed_seconds, [&] { receive_state(state, first, count); });
      timed(result_.compute_seconds, SpanKind::kCompute, [&] {
        TensorView<float> y = task_.y;
        y.data += first;
        y.shape[3] = count;
        kernels_.scan(in_.slice(first, count), {nullptr, state.data()}, y, heartbeat_);
      });
      if (is_last()) {
        store_final_state(state, first, count);
      } else {
        Transfer transfer;
        transfer.to_rank = next_rank_;
        transfer.send = std::as_bytes(state);
        result_.sent_bytes += transfer.send.size();
        sending.push_back(transport_.exchange(transfer));
      }
      block_state += state.size();  // what is on its way stays
    }
    timed(result_.exposed_seconds, [&] {
      for (Ticket& ticket : sending) ticket.wait();
    });
  }

  void receive_state(std::span<float> state, std::int64_t first, std::int64_t count) {
    if (!is_first()) {
      Transfer transfer;
      transfer.from_rank = prev_rank_;
      transfer.receive = std::as_writable_bytes(state);
      transport_.exchange(transfer).wait();
      return;
    }
    std::fill(state.begin(), state.end(), 0.0f);
    if (task_.initial_state == nullptr) return;
    for (std::int64_t batch = 0; batch < in_.batch(); ++batch) {
      std::copy_n(task_.initial_state + (batch * in_.channels() + first) * in_.d_state(), count * in_.d_state(),
                  state.data() + batch * count * in_.d_state());
    }
  }

  void store_final_state(std::span<const float> state, std::int64_t first, std::int64_t count) {
    if (task_.final_state == nullptr) return;
    for (std::int64_t batch = 0; batch < in_.batch(); ++batch) {
      std::copy_n(state.data() + batch * count * in_.d_state(), count * in_.d_state(),
                  task_.final_state + (batch * in_.channels() + first) * in_.d_state());
    }
  }

  const SsmPassTask& task_;
  const ScanInputs& in_;
  Transport& transport_;
  SsmKernels& kernels_;
  MemoryLedger* ledger_;
  Heartbeat& heartbeat_;
  std::vector<int> participants_;
  int prev_rank_ = -1;
  int next_rank_ = -1;
  SsmPassResult result_;
};

}  // namespace

SsmPassResult& SsmPassResult::operator+=(const SsmPassResult& other) {
  compute_seconds += other.compute_seconds;
  exposed_seconds += other.exposed_seconds;
  sent_bytes += other.sent_bytes;
  corrected += other.corrected;
  return *this;
}

SsmPassResult run_ssm_pass(const SsmPassTask& task, Transport& transport, SsmKernels& kernels, MemoryLedger* ledger,
                           Heartbeat& heartbeat) {
  return SsmPass(task, transport, kernels, ledger, heartbeat).run();
}

std::size_t ssm_pass_bytes(std::int64_t batch, std::int64_t channels, std::int64_t d_state) {
  return 3 * summary_floats(batch, channels, d_state) * sizeof(float);
}

std::int64_t ssm_chained_channels(std::int64_t channels, const SequenceLayout& layout) {
  return block_channels(channels, scan_participants(layout).size());
}

int last_rank_of(const SequenceLayout& layout) {
  const std::vector<int> participants = scan_participants(layout);
  return participants.empty() ? 0 : participants.back();
}

}  // namespace ringscan
