// Linear attention of the CPU backend: checks what it is given, and takes runs apart into chunks.

#include "kernels/linear_kernels.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "core/error.hpp"
#include "kernels/cpu/flush_denormals.hpp"
#include "kernels/cpu/linear_kernels.hpp"
#include "kernels/cpu/linear_ops.hpp"

namespace ringscan {
namespace {

using namespace cpu;

constexpr std::int64_t kMaxDim = 256;
constexpr std::int64_t kChunksABeat = 32;
static_assert(kLinearChunk == static_cast<std::int64_t>(kChunk));
/// e to this is 0, many times over; so a decay of -infinity (a fresh start) makes no NaN.
constexpr double kLeastLogDecay = -1e4;

void require(bool holds, const char* wanted) {
  if (!holds) throw failure(std::string("cpu linear kernels: ") + wanted);
}

/// One float a token, as vectors load them.
struct alignas(Buffer::kAlignment) TokenFloats : std::array<float, kChunk> {};

/// The states of a LinearState: [batch][slot], each a cache line with Lambda, then `high` and `low`.
class StateArrays {
 public:
  explicit StateArrays(const LinearShape& shape)
      : slots_(shape.slots),
        count_(shape.batch * shape.slots),
        widths_(shape.head_dim, shape.v_dim, shape.has_normalizer) {}

  const LinearWidths& widths() const { return widths_; }
  std::int64_t index(std::int64_t batch, std::int64_t slot) const { return batch * slots_ + slot; }
  std::int64_t count() const { return count_; }
  std::size_t bytes() const { return static_cast<std::size_t>(count_) * stride_bytes(); }

  AffineState& affine(LinearState& state, std::int64_t index) const {
    return *reinterpret_cast<AffineState*>(at(state.data, index));
  }
  StateLanes lanes(const LinearState& state, std::int64_t index) const {
    auto* high = reinterpret_cast<float*>(at(state.data, index) + Buffer::kAlignment);
    return {high, high + widths_.state_floats()};
  }

 private:
  std::size_t stride_bytes() const { return Buffer::kAlignment + 2 * widths_.state_floats() * sizeof(float); }
  std::byte* at(const Buffer& buffer, std::int64_t index) const {
    // A state's owner decides whether it may be written; the views serve both.
    auto* data = const_cast<std::byte*>(buffer.as<std::byte>());
    return data + static_cast<std::size_t>(index) * stride_bytes();
  }

  std::int64_t slots_;
  std::int64_t count_;
  LinearWidths widths_;
};

bool is_input_type(ElementType type) {
  return type != ElementType::kFloat64;
}

void check_decay(const LinearTask& task, const LinearParams& params) {
  const std::size_t slots = task.slots.size();
  if (params.decay == Decay::kHead) require(task.head_log_decay.size() == slots, "a log decay for each slot");
  if (params.decay != Decay::kToken) return;
  require(task.log_decay.shape[0] == task.k.shape[0] && task.log_decay.shape[1] == task.k.shape[1] &&
              task.decay_columns.size() == slots && is_input_type(task.log_decay.type),
          "a log decay for each token and slot");
  for (const int column : task.decay_columns) {
    require(0 <= column && column < task.log_decay.shape[2], "decay columns within their view");
  }
}

void check_task(const LinearTask& task, const LinearParams& params, const LinearShape& shape) {
  require(shape.head_dim >= 1 && shape.head_dim <= kMaxDim && shape.v_dim >= 1 && shape.v_dim <= kMaxDim,
          "head_dim and v_dim from 1 to 256");
  require(shape.has_normalizer == (params.normalizer == Normalizer::kZ), "a state with n where it normalises");
  require(task.k.shape[3] == shape.head_dim && task.v.shape[3] == shape.v_dim, "k and v as wide as the state");
  require(task.k.shape[0] == shape.batch && task.v.shape[0] == shape.batch && task.v.shape[1] == task.k.shape[1],
          "one batch size and number of tokens for all");
  require(static_cast<std::int64_t>(task.slots.size()) == shape.slots, "a slot for each head of the state");
  require(is_input_type(task.k.type) && is_input_type(task.v.type), "inputs as float32, float16 or bfloat16");
  for (const HeadSlot& slot : task.slots) {
    require(0 <= slot.kv_head && slot.kv_head < task.k.shape[2] && slot.kv_head < task.v.shape[2],
            "kv heads within their views");
    if (task.o.data == nullptr) continue;
    require(0 <= slot.q_head && slot.q_head < task.q.shape[2] && slot.q_head < task.o.shape[2],
            "q heads within their views");
  }
  check_decay(task, params);
  if (task.o.data == nullptr) return;
  require(task.q.shape[3] == shape.head_dim && task.o.shape[3] == shape.v_dim && is_input_type(task.q.type),
          "q as wide as k, and o as v");
  require(task.q.shape[1] == task.k.shape[1] && task.o.shape[1] == task.k.shape[1], "a row of q and o for each token");
}

RowSource rows_of(const AnyView& view, std::int64_t batch, const TokenRun& run, int head) {
  return {view.row(batch, run.begin, head), view.type, view.strides[1], static_cast<std::size_t>(run.size()),
          static_cast<std::size_t>(view.shape[3])};
}

/// A state on its way over the tokens of one batch item and slot.
class ChunkWalk {
 public:
  ChunkWalk(const LinearTask& task, const LinearParams& params, const LinearWidths& widths, std::int64_t batch,
            std::size_t slot)
      : ops_(linear_ops()), task_(task), params_(params), widths_(widths), batch_(batch), slot_(slot) {}

  void step(const TokenRun& run, const LinearScratch& scratch, AffineState& affine, const StateLanes& lanes) {
    const HeadSlot heads = task_.slots[slot_];
    const AffineState of_chunk{sum_decays(run)};
    LinearChunk chunk;
    chunk.k = rows_of(task_.k, batch_, run, heads.kv_head);
    chunk.v = rows_of(task_.v, batch_, run, heads.kv_head);
    chunk.elu1 = params_.feature_map == FeatureMap::kElu1;
    chunk.log2_decay_high = high_.data();
    chunk.log2_decay_low = low_.data();
    AffineState joined = of_chunk;
    chunk.decay = joined.join_far(affine);
    affine = joined;
    if (task_.o.data != nullptr) {
      chunk.q = rows_of(task_.q, batch_, run, heads.q_head);
      chunk.scale = static_cast<float>(task_.scale);
      chunk.o = task_.o.row(batch_, run.begin, heads.q_head);
      chunk.o_type = task_.o.type;
      chunk.o_stride = task_.o.strides[1];
    }
    ops_.advance(chunk, widths_, scratch, lanes);
  }

 private:
  double log_decay(std::int64_t token) const {
    if (params_.decay == Decay::kNone) return 0.0;
    if (params_.decay == Decay::kHead) return task_.head_log_decay[slot_];
    const std::byte* element = task_.log_decay.row(batch_, token, task_.decay_columns[slot_]);
    float value = 0.0f;
    convert_elements(element, task_.log_decay.type, &value, ElementType::kFloat32, 1);
    return value;
  }

  /// Fills in log2 of the decays up to each token; returns the chunk's log decay.
  double sum_decays(const TokenRun& run) {
    constexpr double kLog2E = 1.4426950408889634;
    double sum = 0.0;
    for (std::int64_t token = run.begin; token < run.begin + kLinearChunk; ++token) {
      if (token < run.end) {
        const double decay = log_decay(token);
        sum += decay < kLeastLogDecay ? kLeastLogDecay : decay;
      }
      const auto at = static_cast<std::size_t>(token - run.begin);
      const SplitFactor split = SplitFactor::of(sum * kLog2E);
      high_[at] = split.high;
      low_[at] = split.low;
    }
    return sum;
  }

  const LinearOps& ops_;
  const LinearTask& task_;
  const LinearParams& params_;
  const LinearWidths& widths_;
  std::int64_t batch_;
  std::size_t slot_;
  TokenFloats high_;
  TokenFloats low_;
};

class CpuLinearKernels final : public LinearKernels {
 public:
  void make(LinearState& state, const LinearShape& shape, MemoryLedger* ledger) const override {
    state.shape = shape;
    state.data = Buffer(StateArrays(shape).bytes(), ledger);
    state.data.fill_zero();
  }
  std::size_t state_bytes(const LinearShape& shape) const override { return StateArrays(shape).bytes(); }
  std::size_t linear_scratch_bytes(const LinearShape& shape) const override {
    return LinearScratch::bytes(LinearWidths(shape.head_dim, shape.v_dim, true));
  }

  void advance(const LinearTask& task, const LinearParams& params, LinearState& state,
               Heartbeat& heartbeat) const override;
  void join(LinearState& near, const LinearState& far) const override;
  void load(const LinearState& state, std::int64_t batch, std::int64_t slot, std::span<double> s,
            std::span<double> n) const override;
  void store(LinearState& state, std::int64_t batch, std::int64_t slot, std::span<const double> s,
             std::span<const double> n) const override;
};

void CpuLinearKernels::advance(const LinearTask& task, const LinearParams& params, LinearState& state,
                               Heartbeat& heartbeat) const {
  check_task(task, params, state.shape);
  const FlushDenormals flush;
  const StateArrays arrays(state.shape);
  const LinearScratch scratch(arrays.widths());
  const std::int64_t tokens = task.k.shape[1];
  std::int64_t chunks = 0;
  for (std::int64_t batch = 0; batch < state.shape.batch; ++batch) {
    for (std::int64_t slot = 0; slot < state.shape.slots; ++slot) {
      const std::int64_t index = arrays.index(batch, slot);
      ChunkWalk walk(task, params, arrays.widths(), batch, static_cast<std::size_t>(slot));
      for (std::int64_t begin = 0; begin < tokens; begin += kLinearChunk) {
        walk.step({begin, std::min(begin + kLinearChunk, tokens)}, scratch, arrays.affine(state, index),
                  arrays.lanes(state, index));
        if (++chunks % kChunksABeat == 0) heartbeat.beat();
      }
    }
  }
}

void CpuLinearKernels::join(LinearState& near, const LinearState& far) const {
  const StateArrays arrays(near.shape);
  require(near.data.size_bytes() == far.data.size_bytes(), "states of one shape to join");
  for (std::int64_t index = 0; index < arrays.count(); ++index) {
    // The views do not write to what they are given to read.
    const AffineState far_affine = arrays.affine(const_cast<LinearState&>(far), index);
    const SplitFactor factor = arrays.affine(near, index).join_far(far_affine);
    const StateLanes to = arrays.lanes(near, index);
    const StateLanes from = arrays.lanes(far, index);
    for (std::size_t i = 0; i < arrays.widths().state_floats(); ++i) {
      StateElement element{from.high[i], from.low[i]};
      element.decay_and_add(factor, {to.high[i], to.low[i]});
      to.high[i] = element.high;
      to.low[i] = element.low;
    }
  }
}

/// Where S's element (row, column) lies; column v_dim is n's.
std::size_t place_of(const LinearWidths& widths, std::size_t row, std::size_t column) {
  return (column / kLaneGroup * widths.state_rows + row) * kLaneGroup + column % kLaneGroup;
}

void CpuLinearKernels::load(const LinearState& state, std::int64_t batch, std::int64_t slot, std::span<double> s,
                            std::span<double> n) const {
  const StateArrays arrays(state.shape);
  const LinearWidths& widths = arrays.widths();
  const StateLanes lanes = arrays.lanes(state, arrays.index(batch, slot));
  const auto element = [&](std::size_t row, std::size_t column) {
    const std::size_t at = place_of(widths, row, column);
    return static_cast<double>(lanes.high[at]) + static_cast<double>(lanes.low[at]);
  };
  for (std::size_t row = 0; row < widths.head_dim; ++row) {
    for (std::size_t column = 0; column < widths.v_dim; ++column) s[row * widths.v_dim + column] = element(row, column);
    if (widths.has_normalizer) n[row] = element(row, widths.v_dim);
  }
}

void CpuLinearKernels::store(LinearState& state, std::int64_t batch, std::int64_t slot, std::span<const double> s,
                             std::span<const double> n) const {
  const StateArrays arrays(state.shape);
  const LinearWidths& widths = arrays.widths();
  const StateLanes lanes = arrays.lanes(state, arrays.index(batch, slot));
  const auto put = [&](std::size_t row, std::size_t column, double value) {
    const SplitFactor split = SplitFactor::of(value);
    const std::size_t at = place_of(widths, row, column);
    lanes.high[at] = split.high;
    lanes.low[at] = split.low;
  };
  for (std::size_t row = 0; row < widths.head_dim; ++row) {
    for (std::size_t column = 0; column < widths.v_dim; ++column) put(row, column, s[row * widths.v_dim + column]);
    if (widths.has_normalizer) put(row, widths.v_dim, n[row]);
  }
}

}  // namespace

namespace cpu {

const LinearKernels& linear_kernels() {
  static const CpuLinearKernels kernels;
  return kernels;
}

}  // namespace cpu
}  // namespace ringscan
