#include "engine/memory_block.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "core/error.hpp"
#include "engine/synthetic_activations.hpp"
#include "engine/synthetic_blocks.hpp"

namespace ringscan {
namespace {

/// What all three have: a rank's tokens of synthetic datasets.
class SyntheticBlock : public MemoryBlock {
 protected:
  SyntheticBlock(const BlockPlan& plan, const SyntheticSpec& spec, const RunConfig& config, int rank,
                 MemoryLedger* ledger)
      : plan_(plan), spec_(spec), config_(config), own_(plan.layout.chunks(rank)[0].run), ledger_(ledger) {}

  Shape4 rows(std::int64_t heads, std::int64_t dim) const { return {plan_.shape.batch, own_.size(), heads, dim}; }

  /// An input of the rank's tokens. Values follow the rank's first token, so that other ranks have others.
  AnyView input(const char* dataset, const Shape4& shape, Buffer& buffer, MemorySpace& space) const {
    const auto count = static_cast<std::size_t>(element_count(shape));
    std::vector<float> values(std::min(count, kDistinctSyntheticValues));
    fill_synthetic_block(spec_, 0, dataset, own_.begin * shape[2] * shape[3], values);
    std::vector<std::byte> elements(values.size() * size_of(spec_.dtype));
    convert_elements(values.data(), ElementType::kFloat32, elements.data(), spec_.dtype, values.size());
    buffer = Buffer(count * size_of(spec_.dtype), &space == &host_memory() ? ledger_ : nullptr, space);
    for (std::size_t at = 0; at < buffer.size_bytes(); at += elements.size()) {
      space.copy_in(buffer.as<std::byte>() + at, elements.data(), std::min(elements.size(), buffer.size_bytes() - at));
    }
    return dense_any_view(std::as_const(buffer).data(), spec_.dtype, shape);
  }

  TensorView<float> output(const Shape4& shape, Buffer& buffer, MemorySpace& space) const {
    buffer = Buffer(static_cast<std::size_t>(element_count(shape)) * sizeof(float),
                    &space == &host_memory() ? ledger_ : nullptr, space);
    return dense_view(buffer.as<float>(), shape);
  }

  std::vector<float> parameter(const char* dataset, std::int64_t count) const {
    std::vector<float> values(static_cast<std::size_t>(count));
    fill_synthetic_block(spec_, 0, dataset, 0, values);
    return values;
  }

  const BlockPlan& plan_;
  const SyntheticSpec& spec_;
  const RunConfig& config_;
  TokenRun own_;
  MemoryLedger* ledger_;
  Heartbeat heartbeat_;
};

class SsmBlock final : public SyntheticBlock {
 public:
  SsmBlock(const BlockPlan& plan, const SyntheticSpec& spec, const RunConfig& config, int rank, MemorySpace& space,
           MemoryLedger* ledger)
      : SyntheticBlock(plan, spec, config, rank, ledger) {
    const BlockShape& shape = plan.shape;
    a_ = parameter("ssm/A", shape.channels * shape.d_state);
    d_ = parameter("ssm/D", shape.channels);
    SsmPassTask task;
    task.layout = &plan.layout;
    task.reproducible = config.reproducible;
    task.inputs.b = input("ssm/B", rows(shape.groups, shape.d_state), b_, space);
    task.inputs.c = input("ssm/C", rows(shape.groups, shape.d_state), c_, space);
    task.inputs.channels_per_group = shape.channels / shape.groups;
    for (std::int64_t first = 0; first < shape.channels; first += plan.block_channels) {
      const Shape4 part = rows(1, std::min(plan.block_channels, shape.channels - first));
      Rows& made = rows_.emplace_back();
      task.inputs.u = input("ssm/u", part, made.u, space);
      task.inputs.delta = input("ssm/delta", part, made.delta, space);
      task.inputs.z = input("ssm/z", part, made.z, space);
      task.inputs.first_channel = first;
      task.inputs.a = a_.data() + first * shape.d_state;
      task.inputs.d = d_.data() + first;
      task.y = output(part, made.y, space);
      tasks_.push_back(task);
    }
  }

  SsmPassResult run(Transport& transport, const BlockKernels& kernels, MemoryLedger* ledger) override {
    SsmPassResult result;
    for (const SsmPassTask& task : tasks_) result += run_ssm_pass(task, transport, kernels.ssm(), ledger, heartbeat_);
    return result;
  }

 private:
  struct Rows {
    Buffer u, delta, z, y;
  };
  std::vector<float> a_, d_;
  Buffer b_, c_;
  std::vector<Rows> rows_;  // by run of channels
  std::vector<SsmPassTask> tasks_;
};

class MambaBlock final : public SyntheticBlock {
 public:
  MambaBlock(const BlockPlan& plan, const SyntheticSpec& spec, const RunConfig& config, int rank,
             const SsmKernels& kernels, MemoryLedger* ledger)
      : SyntheticBlock(plan, spec, config, rank, ledger) {
    const MambaShape& m = weights_.shape = plan.shape.mamba;
    weights_.in_proj = parameter("mamba/in_proj", 2 * m.d_inner * m.d_model);
    weights_.conv_weight = parameter("mamba/conv_weight", m.d_inner * m.conv_width);
    weights_.conv_bias = parameter("mamba/conv_bias", m.d_inner);
    weights_.x_proj = parameter("mamba/x_proj", m.dt_b_c() * m.d_inner);
    weights_.dt_proj = parameter("mamba/dt_proj", m.d_inner * m.dt_rank);
    weights_.dt_bias = parameter("mamba/dt_bias", m.d_inner);
    weights_.a = parameter("mamba/A_log", m.d_inner * m.d_state);
    for (float& a : weights_.a) a = -std::exp(a);
    weights_.d = parameter("mamba/D", m.d_inner);
    weights_.out_proj = parameter("mamba/out_proj", m.d_out * m.d_inner);
    task_.layout = &plan.layout;
    task_.weights = &placed_.emplace(weights_, kernels.work_memory());
    task_.x = input("mamba/x", rows(1, m.d_model), x_, kernels.work_memory());
    task_.out = output(rows(1, m.d_out), y_, kernels.work_memory());
    task_.block_channels = plan.block_channels;
    task_.reproducible = config.reproducible;
  }

  SsmPassResult run(Transport& transport, const BlockKernels& kernels, MemoryLedger* ledger) override {
    return run_mamba_pass(task_, transport, kernels.ssm(), ledger, heartbeat_);
  }

 private:
  MambaWeights weights_;
  std::optional<PlacedMambaWeights> placed_;  // for all runs, as a model's weights stay on a device
  Buffer x_, y_;
  MambaPassTask task_;
};

class ChelaBlock final : public SyntheticBlock {
 public:
  ChelaBlock(const BlockPlan& plan, const SyntheticSpec& spec, const RunConfig& config, int rank,
             const SsmKernels& kernels, MemoryLedger* ledger)
      : SyntheticBlock(plan, spec, config, rank, ledger) {
    const ChelaShape& s = weights_.shape = plan.shape.chela.shape;
    // The branch of one tap is left out: folded, it adds to the first.
    weights_.short_conv = parameter("chela/short_conv/0", s.channels * s.short_width);
    weights_.long_conv = parameter("chela/long_conv", s.channels * s.long_width);
    weights_.kq = parameter("chela/kq", s.channels);
    weights_.mq = parameter("chela/mq", s.channels);
    weights_.kk = parameter("chela/kk", s.channels);
    weights_.mk = parameter("chela/mk", s.channels);
    weights_.w_v = parameter("chela/w_v", s.v_channels * s.channels);
    weights_.w_g = parameter("chela/w_g", s.v_channels * s.channels);
    weights_.w_o = parameter("chela/w_o", s.v_channels * s.channels);
    task_.layout = &plan.layout;
    task_.weights = &placed_.emplace(weights_, kernels.work_memory());
    task_.scale = chela_scale(config, plan.shape.chela);
    task_.x = input("chela/x", rows(1, s.channels), x_, kernels.work_memory());
    task_.y = output(rows(1, s.channels), y_, kernels.work_memory());
    task_.reproducible = config.reproducible;
  }

  SsmPassResult run(Transport& transport, const BlockKernels& kernels, MemoryLedger* ledger) override {
    const ChelaPassResult pass = run_chela_pass(task_, transport, kernels.chela(), ledger, heartbeat_);
    SsmPassResult result;
    result.compute_seconds = pass.compute_seconds;
    result.exposed_seconds = pass.exposed_seconds;
    result.sent_bytes = pass.sent_bytes;
    return result;
  }

 private:
  ChelaWeights weights_;
  std::optional<PlacedChelaWeights> placed_;
  Buffer x_, y_;
  ChelaPassTask task_;
};

}  // namespace

std::unique_ptr<MemoryBlock> make_memory_block(const BlockPlan& plan, const SyntheticSpec& spec,
                                               const RunConfig& config, int rank, const BlockKernels& kernels,
                                               MemoryLedger* ledger) {
  if (std::holds_alternative<SsmParams>(plan.shape.mechanism)) {
    return std::make_unique<SsmBlock>(plan, spec, config, rank, kernels.ssm().work_memory(), ledger);
  }
  if (std::holds_alternative<MambaParams>(plan.shape.mechanism)) {
    return std::make_unique<MambaBlock>(plan, spec, config, rank, kernels.ssm(), ledger);
  }
  return std::make_unique<ChelaBlock>(plan, spec, config, rank, kernels.ssm(), ledger);
}

}  // namespace ringscan
