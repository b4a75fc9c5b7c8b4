#include "engine/synthetic_plan.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "engine/synthetic_blocks.hpp"

namespace ringscan {
namespace {

SyntheticKind kind_of(const BlockMechanism& mechanism) {
  if (std::holds_alternative<SsmParams>(mechanism)) return SyntheticKind::kSsm;
  return std::holds_alternative<MambaParams>(mechanism) ? SyntheticKind::kMamba : SyntheticKind::kChela;
}

void shape_ssm(const SyntheticSpec& spec, BlockShape& shape) {
  const std::size_t element = size_of(spec.dtype);
  shape.groups = spec.num_kv_heads;
  shape.d_state = spec.sizes.states;
  shape.has_z = true;
  shape.channel_bytes = 3 * element;
  shape.token_bytes = static_cast<std::size_t>(2 * shape.groups * shape.d_state) * element;
  shape.staging_bytes = 8;
}

void shape_mamba(const SyntheticSpec& spec, BlockShape& shape) {
  MambaShape& m = shape.mamba;
  m.d_model = m.d_out = shape.channels;
  m.d_inner = 2 * shape.channels;
  m.d_state = shape.d_state = spec.sizes.states;
  m.dt_rank = ceil_div(shape.channels, 16);
  m.conv_width = kSyntheticTaps;
  shape.token_bytes = static_cast<std::size_t>(m.d_model) * size_of(spec.dtype);
}

void shape_chela(const SyntheticSpec& spec, const ChelaParams& params, BlockShape& shape) {
  ChelaLayer& layer = shape.chela;
  layer.batch = shape.batch;
  layer.seq_len = shape.seq_len;
  layer.shape.channels = layer.shape.v_channels = shape.channels;
  layer.shape.num_heads = params.heads > 0 ? params.heads : default_chela_heads(shape.channels, shape.channels);
  layer.shape.short_width = kSyntheticTaps;
  layer.shape.long_width = std::min(spec.seq_len, spec.sizes.taps);
  layer.x_type = spec.dtype;
  layer.y_type = shape.output_type;
  if (shape.channels % layer.shape.num_heads != 0 || layer.shape.head_dim() > 256) {
    throw bad_input("chela.heads: found " + std::to_string(layer.shape.num_heads) + " for " +
                    std::to_string(shape.channels) + " channels, want a divisor with heads of at most 256 elements");
  }
}

}  // namespace

SyntheticSpec synthetic_block_spec(const BlockAssignment& assignment, const LayerShape& layer,
                                   const SyntheticBlockSizes& sizes) {
  const bool is_whole = assignment.heads.empty();
  SyntheticSpec spec;
  spec.kind = kind_of(assignment.mechanism);
  spec.batch = layer.batch;
  spec.seq_len = layer.seq_len;
  spec.num_heads = is_whole ? layer.num_heads : std::ssize(assignment.heads);
  spec.num_kv_heads = is_whole ? layer.num_kv_heads : 1;
  spec.head_dim = spec.v_dim = layer.v_dim;
  spec.dtype = layer.q_type;
  spec.sizes = sizes;
  return spec;
}

BlockShape synthetic_block_shape(const BlockAssignment& assignment, const LayerShape& layer,
                                 const SyntheticBlockSizes& sizes, const RunConfig& config) {
  const SyntheticSpec spec = synthetic_block_spec(assignment, layer, sizes);
  BlockShape shape;
  shape.layer = layer.name;
  shape.mechanism = assignment.mechanism;
  shape.heads = assignment.heads;
  std::sort(shape.heads.begin(), shape.heads.end());
  if (!shape.heads.empty()) {
    shape.num_heads = layer.num_heads;
    shape.v_dim = layer.v_dim;
  }
  shape.batch = spec.batch;
  shape.seq_len = spec.seq_len;
  shape.channels = spec.num_heads * spec.head_dim;
  shape.input_type = spec.dtype;
  shape.output_type = config.output_dtype.value_or(layer.o_type);
  if (std::holds_alternative<SsmParams>(assignment.mechanism)) {
    shape_ssm(spec, shape);
  } else if (const auto* chela = std::get_if<ChelaParams>(&assignment.mechanism)) {
    shape_chela(spec, *chela, shape);
  } else {
    shape_mamba(spec, shape);
  }
  return shape;
}

RunPlan make_synthetic_plan(const RunConfig& config, const LayerShape& layer, const SyntheticBlockSizes& sizes,
                            const PlanResources& resources, const Kernels& kernels) {
  // A layer that is one block mechanism's has no q, k, v.
  const bool has_heads =
      !config.assignments.empty() || std::any_of(config.blocks.begin(), config.blocks.end(),
                                                 [](const BlockAssignment& block) { return !block.heads.empty(); });
  RunPlan plan = make_run_plan(config, has_heads ? std::vector{layer} : std::vector<LayerShape>{}, resources, kernels);
  for (const BlockAssignment& block : config.blocks) {
    plan_block(config, synthetic_block_shape(block, layer, sizes, config), plan);
  }
  return plan;
}

}  // namespace ringscan
