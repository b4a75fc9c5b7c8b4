#include "engine/block_plan.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/error.hpp"
#include "core/units.hpp"
#include "engine/run_plan.hpp"
#include "kernels/linear_kernels.hpp"

namespace ringscan {
namespace {

constexpr std::int64_t kMaxState = 1024;
constexpr std::int64_t kMaxConvWidth = 256;
constexpr std::int64_t kReproducibleChannels = 256;
constexpr std::int64_t kTile = 64;

std::string count_text(std::int64_t count) {
  return std::to_string(count);
}

void check_range(const ActivationReader& reader, const DatasetInfo& dataset, std::size_t axis, std::int64_t most,
                 const char* what) {
  const std::int64_t found = dataset.shape[axis];
  if (found >= 1 && found <= most) return;
  throw bad_input(reader.path() + ": " + dataset.path + " has " + count_text(found) + " " + what + "; want 1 to " +
                  count_text(most));
}

std::size_t memory_size(const DatasetInfo& dataset) {
  return size_of(type_in_memory(dataset.type));
}

void inspect_ssm(const ActivationReader& reader, BlockShape& shape) {
  const std::string& layer = shape.layer;
  const DatasetInfo u = reader.require(layer, "ssm/u", {-1, -1, -1});
  check_range(reader, u, 2, std::int64_t{1} << 30, "channels");
  const DatasetInfo delta = reader.require(layer, "ssm/delta", u.shape);
  const DatasetInfo b = reader.require(layer, "ssm/B", {u.shape[0], u.shape[1], -1, -1});
  const DatasetInfo c = reader.require(layer, "ssm/C", b.shape);
  check_range(reader, b, 3, kMaxState, "states a channel");
  if (b.shape[2] < 1 || u.shape[2] % b.shape[2] != 0) {
    throw bad_input(reader.path() + ": " + b.path + " has " + count_text(b.shape[2]) + " groups and " + u.path + " " +
                    count_text(u.shape[2]) + " channels: the groups must divide the channels");
  }
  reader.require(layer, "ssm/A", {u.shape[2], b.shape[3]});
  for (const char* optional : {"ssm/D", "ssm/delta_bias"}) {
    if (reader.find(layer, optional)) reader.require(layer, optional, {u.shape[2]});
  }
  shape.has_z = reader.find(layer, "ssm/z").has_value();
  shape.batch = u.shape[0];
  shape.seq_len = u.shape[1];
  shape.channels = u.shape[2];
  shape.groups = b.shape[2];
  shape.d_state = b.shape[3];
  shape.input_type = u.type;
  shape.channel_bytes = memory_size(u) + memory_size(delta);
  if (shape.has_z) shape.channel_bytes += memory_size(reader.require(layer, "ssm/z", u.shape));
  shape.token_bytes = static_cast<std::size_t>(b.shape[2] * b.shape[3]) * (memory_size(b) + memory_size(c));
  shape.staging_bytes = 8;
}

void inspect_mamba(const ActivationReader& reader, BlockShape& shape) {
  const std::string& layer = shape.layer;
  const DatasetInfo x = reader.require(layer, "mamba/x", {-1, -1, -1});
  const DatasetInfo a_log = reader.require(layer, "mamba/A_log", {-1, -1});
  check_range(reader, x, 2, std::int64_t{1} << 20, "elements a token");
  check_range(reader, a_log, 0, std::int64_t{1} << 20, "inner channels");
  check_range(reader, a_log, 1, kMaxState, "states a channel");
  MambaShape& m = shape.mamba;
  m.d_model = x.shape[2];
  m.d_inner = a_log.shape[0];
  m.d_state = a_log.shape[1];
  reader.require(layer, "mamba/in_proj", {2 * m.d_inner, m.d_model});
  const std::optional<DatasetInfo> conv = reader.find(layer, "mamba/conv_weight");
  // [d_inner, width], or with the 1 that a depthwise convolution has in PyTorch.
  const bool has_one = conv && conv->shape.size() == 3;
  const DatasetInfo weight =
      reader.require(layer, "mamba/conv_weight",
                     has_one ? std::vector<std::int64_t>{m.d_inner, 1, -1} : std::vector<std::int64_t>{m.d_inner, -1});
  check_range(reader, weight, weight.shape.size() - 1, kMaxConvWidth, "taps");
  m.conv_width = weight.shape.back();
  if (reader.find(layer, "mamba/conv_bias")) reader.require(layer, "mamba/conv_bias", {m.d_inner});
  const DatasetInfo dt_proj = reader.require(layer, "mamba/dt_proj", {m.d_inner, -1});
  check_range(reader, dt_proj, 1, std::int64_t{1} << 20, "columns (the rank of dt)");
  m.dt_rank = dt_proj.shape[1];
  reader.require(layer, "mamba/x_proj", {m.dt_b_c(), m.d_inner});
  reader.require(layer, "mamba/dt_bias", {m.d_inner});
  reader.require(layer, "mamba/D", {m.d_inner});
  const DatasetInfo out_proj = reader.require(layer, "mamba/out_proj", {-1, m.d_inner});
  check_range(reader, out_proj, 0, std::int64_t{1} << 20, "rows");
  m.d_out = out_proj.shape[0];
  shape.batch = x.shape[0];
  shape.seq_len = x.shape[1];
  shape.channels = m.d_out;
  shape.d_state = m.d_state;
  shape.input_type = x.type;
  shape.token_bytes = static_cast<std::size_t>(m.d_model) * memory_size(x);
  shape.staging_bytes = x.type == ElementType::kFloat64 ? 8 * static_cast<std::size_t>(m.d_model) : 0;
}

void inspect_chela(const ActivationReader& reader, const ChelaParams& params, BlockShape& shape) {
  shape.chela = inspect_chela_layer(reader, shape.layer, params.heads, {});
  shape.batch = shape.chela.batch;
  shape.seq_len = shape.chela.seq_len;
  shape.channels = shape.chela.shape.channels;
  shape.input_type = reader.require(shape.layer, "chela/x", {-1, -1, -1}).type;
}

/// In a hybrid the output goes to heads of `o`.
void inspect_heads(const ActivationReader& reader, const BlockAssignment& assignment, BlockShape& shape) {
  shape.heads = assignment.heads;
  std::sort(shape.heads.begin(), shape.heads.end());
  if (shape.heads.empty()) return;
  const DatasetInfo q = reader.require(shape.layer, "q", {shape.batch, shape.seq_len, -1, -1});
  const DatasetInfo v = reader.require(shape.layer, "v", {shape.batch, shape.seq_len, -1, -1});
  shape.num_heads = q.shape[2];
  shape.v_dim = v.shape[3];
  const std::int64_t wanted = static_cast<std::int64_t>(shape.heads.size()) * shape.v_dim;
  if (shape.channels == wanted) return;
  const std::string name(name_of(shape.mechanism));
  throw bad_input(reader.path() + ": " + shape.label() + ": " + name + " gives " + count_text(shape.channels) +
                  " channels, and heads." + name + " has " + count_text(std::ssize(shape.heads)) + " heads of v_dim " +
                  count_text(shape.v_dim) + ": want " + count_text(wanted));
}

double chela_flops(const BlockShape& shape) {
  const ChelaShape& s = shape.chela.shape;
  const auto seq_len = static_cast<double>(shape.seq_len), channels = static_cast<double>(s.channels);
  const double tokens = static_cast<double>(shape.batch) * seq_len;
  const double length = 2.0 * std::max(1.0, seq_len);
  const double long_conv =
      std::min(2.0 * static_cast<double>(s.long_width) * seq_len, 5.0 * length * std::log2(length));
  return tokens * channels * (6.0 * static_cast<double>(s.v_channels) + 2.0 * static_cast<double>(s.short_width)) +
         static_cast<double>(shape.batch) * channels * long_conv +
         linear_output_flops(tokens * static_cast<double>(s.num_heads), static_cast<double>(s.head_dim()),
                             static_cast<double>(s.v_dim()));
}

double flops_of(const BlockShape& shape) {
  if (std::holds_alternative<ChelaParams>(shape.mechanism)) return chela_flops(shape);
  const bool is_ssm = std::holds_alternative<SsmParams>(shape.mechanism);
  const MambaShape& m = shape.mamba;
  const std::int64_t scan = 8 * (is_ssm ? shape.channels : m.d_inner) * shape.d_state;
  const std::int64_t weights =
      is_ssm ? 0 : m.d_inner * (2 * m.d_model + m.conv_width + m.dt_b_c() + m.dt_rank + m.d_out);
  return static_cast<double>(shape.batch) * static_cast<double>(shape.seq_len) *
         static_cast<double>(scan + 2 * weights);
}

/// A rank's most.
MemoryPlan chela_memory(const BlockPlan& block, const RunConfig& config, const LinearKernels& linear) {
  const auto chela = make_cpu_chela_kernels();
  const auto ssm = make_cpu_ssm_kernels();
  const ChelaLayerBytes bytes =
      chela_layer_bytes(block.shape.chela, block.shape.input_type, block.layout, config.reproducible,
                        !config.initial_state.empty(), config.want_state, {*chela, *ssm, linear});
  MemoryPlan memory;
  memory.input_bytes = bytes.input;
  memory.output_bytes = bytes.output;
  memory.partial_bytes = bytes.pass;
  memory.scratch_bytes = bytes.scratch;
  return memory;
}

/// A rank's most, with blocks of that many channels.
MemoryPlan memory_of(const BlockPlan& block, const RunConfig& config, const LinearKernels& linear) {
  const BlockShape& shape = block.shape;
  if (std::holds_alternative<ChelaParams>(shape.mechanism)) return chela_memory(block, config, linear);
  const std::int64_t tokens = block.layout.max_local_tokens();
  const auto rows = static_cast<std::size_t>(shape.batch * tokens);
  MemoryPlan memory;
  std::size_t state_channels = static_cast<std::size_t>(shape.channels);
  if (std::holds_alternative<SsmParams>(shape.mechanism)) {
    const auto channels = static_cast<std::size_t>(block.block_channels);
    memory.input_bytes = rows * (channels * shape.channel_bytes + shape.token_bytes) +
                         static_cast<std::size_t>(shape.channels * (shape.d_state + 2)) * sizeof(float);
    memory.output_bytes = rows * channels * (sizeof(float) + size_of(shape.output_type));
    memory.partial_bytes = ssm_pass_bytes(shape.batch, block.block_channels, shape.d_state);
    memory.scratch_bytes =
        rows * std::max(channels, static_cast<std::size_t>(shape.groups * shape.d_state)) * shape.staging_bytes;
  } else {
    const MambaShape& m = shape.mamba;
    state_channels = static_cast<std::size_t>(m.d_inner);
    memory.input_bytes = rows * shape.token_bytes;
    memory.output_bytes = rows * static_cast<std::size_t>(m.d_out) * (sizeof(float) + size_of(shape.output_type));
    memory.partial_bytes =
        mamba_pass_bytes(m, shape.batch, tokens, block.block_channels, make_cpu_ssm_kernels()->chunk_tokens());
    memory.scratch_bytes = rows * shape.staging_bytes;
    memory.partial_bytes += static_cast<std::size_t>(shape.batch * m.d_inner * (m.conv_width - 1)) * 2 * sizeof(float);
  }
  if (config.want_state || !config.initial_state.empty()) {
    memory.partial_bytes += 2 * state_channels * static_cast<std::size_t>(shape.batch * shape.d_state) * sizeof(float);
  }
  return memory;
}

/// Of one (batch, block of channels).
std::size_t state_bytes_of(const BlockPlan& block, const LinearKernels& linear) {
  const BlockShape& shape = block.shape;
  if (std::holds_alternative<ChelaParams>(shape.mechanism)) {
    const ChelaShape& s = shape.chela.shape;
    return static_cast<std::size_t>(s.num_heads) * linear.state_bytes({shape.batch, 1, s.head_dim(), s.v_dim(), false});
  }
  return static_cast<std::size_t>(shape.batch * block.block_channels * (1 + shape.d_state)) * sizeof(float);
}

/// From all channels down to the fewest.
std::vector<std::int64_t> candidate_blocks(const BlockShape& shape, const RunConfig& config) {
  if (std::holds_alternative<ChelaParams>(shape.mechanism)) return {shape.channels};
  if (std::holds_alternative<MambaParams>(shape.mechanism)) {
    const std::int64_t all = shape.mamba.d_inner;
    if (config.reproducible) return {std::min(all, kReproducibleChannels)};
    std::vector<std::int64_t> blocks{all};
    while (blocks.back() > 16) blocks.push_back(ceil_div(blocks.back(), 2));
    return blocks;
  }
  // Whole heads, in a hybrid.
  const std::int64_t unit = shape.heads.empty() ? 1 : shape.v_dim;
  std::vector<std::int64_t> blocks{shape.channels};
  while (blocks.back() > std::max<std::int64_t>(16, unit)) {
    blocks.push_back(ceil_div(ceil_div(blocks.back(), 2), unit) * unit);
  }
  return blocks;
}

}  // namespace

std::string BlockShape::label() const {
  return layer.empty() ? "the input" : "layer " + layer;
}

BlockShape inspect_block(const ActivationReader& reader, const std::string& layer, const BlockAssignment& assignment,
                         const RunConfig& config) {
  BlockShape shape;
  shape.layer = layer;
  shape.mechanism = assignment.mechanism;
  if (std::holds_alternative<SsmParams>(assignment.mechanism)) {
    inspect_ssm(reader, shape);
  } else if (const auto* chela = std::get_if<ChelaParams>(&assignment.mechanism)) {
    inspect_chela(reader, *chela, shape);
  } else {
    inspect_mamba(reader, shape);
  }
  inspect_heads(reader, assignment, shape);
  const ElementType o_type = shape.heads.empty() ? shape.input_type : reader.require(layer, "q", {-1, -1, -1, -1}).type;
  shape.output_type = shape.chela.y_type = config.output_dtype.value_or(o_type);
  return shape;
}

double chela_scale(const RunConfig& config, const ChelaLayer& layer) {
  return config.scale.value_or(1.0 / std::sqrt(static_cast<double>(layer.shape.head_dim())));
}

void plan_block(const RunConfig& config, const BlockShape& shape, RunPlan& plan) {
  if (config.layout == LayoutKind::kZigzag) {
    throw bad_input("layout: found zigzag, which " + std::string(name_of(shape.mechanism)) +
                    " cannot have (states go from rank to rank in order), want auto or contiguous");
  }
  const std::unique_ptr<Kernels> host = make_cpu_kernels();  // blocks are the host's
  // CHELA's linear attention walks chunks of kTile; under `reproducible` they begin where any rank's would.
  const bool wants_tiles = config.reproducible && std::holds_alternative<ChelaParams>(shape.mechanism);
  const std::int64_t tile = wants_tiles || shape.seq_len >= plan.world_size * kTile * 8 ? kTile : 1;
  BlockPlan block{shape, SequenceLayout(LayoutKind::kContiguous, shape.seq_len, plan.world_size, tile), 0, 0,
                  flops_of(shape)};
  MemoryPlan memory;
  for (const std::int64_t channels : candidate_blocks(shape, config)) {
    block.block_channels = channels;
    memory = memory_of(block, config, host->linear());
    if (memory.total() <= plan.memory_limit_bytes) break;
  }
  if (memory.total() > plan.memory_limit_bytes) {
    throw bad_input("memory: " + std::string(name_of(shape.mechanism)) + " takes " + human_bytes(memory.total()) +
                    " a rank, and a rank has " + human_bytes(plan.memory_limit_bytes) +
                    ": use more ranks, or give a larger --memory");
  }
  if (memory.total() > plan.memory.total()) plan.memory = memory;
  block.state_bytes = state_bytes_of(block, host->linear());
  plan.blocks.push_back(std::move(block));
}

void plan_blocks(const RunConfig& config, const ActivationReader& reader, RunPlan& plan) {
  if (config.blocks.empty()) return;
  for (const std::string& layer : reader.layers(config.layers)) {
    for (const BlockAssignment& assignment : config.blocks) {
      plan_block(config, inspect_block(reader, layer, assignment, config), plan);
    }
  }
}

BlockBytes file_bytes(const BlockShape& shape) {
  const double rows = static_cast<double>(shape.batch) * static_cast<double>(shape.seq_len);
  const double channels = static_cast<double>(shape.channels);
  double token_bytes = channels * static_cast<double>(shape.channel_bytes) + static_cast<double>(shape.token_bytes);
  if (std::holds_alternative<ChelaParams>(shape.mechanism)) {
    token_bytes = channels * static_cast<double>(size_of(shape.input_type));
  }
  return {rows * token_bytes, rows * channels * static_cast<double>(size_of(shape.output_type))};
}

std::string describe(const BlockPlan& block) {
  const BlockShape& shape = block.shape;
  const bool is_chela = std::holds_alternative<ChelaParams>(shape.mechanism);
  char work[64];
  std::snprintf(work, sizeof work, "%.3g TFLOP", block.flops * 1e-12);
  std::string text = shape.label() + ": " + std::string(name_of(shape.mechanism)) + ", batch " +
                     count_text(shape.batch) + ", " + count_text(shape.seq_len) + " tokens, " +
                     count_text(shape.channels) + " channels, " +
                     (is_chela ? count_text(shape.chela.shape.num_heads) + " heads, kernels of " +
                                     count_text(shape.chela.shape.short_width) + " and " +
                                     count_text(shape.chela.shape.long_width) + " taps"
                               : "d_state " + count_text(shape.d_state));
  if (!shape.heads.empty()) text += ", in " + count_text(std::ssize(shape.heads)) + " heads of o";
  return text + "\n  contiguous, at most " + count_text(block.layout.max_local_tokens()) + " tokens a rank, " +
         count_text(block.block_channels) + " channels at once, " + work;
}

}  // namespace ringscan
