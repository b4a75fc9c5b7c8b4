#include "engine/synthetic_blocks.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.hpp"
#include "sequence/sequence_layout.hpp"

namespace ringscan {
namespace {

constexpr std::size_t kSlabBytes = std::size_t{32} << 20;
/// Of the first dataset, the others behind it: apart from those of q, k and v.
constexpr int kFirstStream = 16;

double fan_in(std::int64_t inputs) {
  return 1.0 / std::sqrt(static_cast<double>(inputs));
}

std::vector<SyntheticBlockDataset> ssm_datasets(const SyntheticSpec& spec) {
  const std::int64_t channels = spec.num_heads * spec.head_dim;
  const std::vector<std::int64_t> tokens{spec.batch, spec.seq_len, channels};
  const std::vector<std::int64_t> states{spec.batch, spec.seq_len, spec.num_kv_heads, spec.sizes.states};
  return {{"ssm/u", tokens},
          {"ssm/delta", tokens, SyntheticValues::kDelta},
          {"ssm/z", tokens},
          {"ssm/B", states},
          {"ssm/C", states},
          {"ssm/A", {channels, spec.sizes.states}, SyntheticValues::kA, 1.0, true},
          {"ssm/D", {channels}, SyntheticValues::kNormal, 1.0, true}};
}

std::vector<SyntheticBlockDataset> mamba_datasets(const SyntheticSpec& spec) {
  const std::int64_t d_model = spec.num_heads * spec.head_dim;
  const std::int64_t d_inner = 2 * d_model;
  const std::int64_t dt_rank = ceil_div(d_model, 16);
  const auto normal = SyntheticValues::kNormal;
  return {{"mamba/x", {spec.batch, spec.seq_len, d_model}},
          {"mamba/in_proj", {2 * d_inner, d_model}, normal, fan_in(d_model), true},
          {"mamba/conv_weight", {d_inner, 1, kSyntheticTaps}, normal, 0.5, true},
          {"mamba/conv_bias", {d_inner}, normal, 0.1, true},
          {"mamba/x_proj", {dt_rank + 2 * spec.sizes.states, d_inner}, normal, fan_in(d_inner), true},
          {"mamba/dt_proj", {d_inner, dt_rank}, normal, fan_in(dt_rank), true},
          {"mamba/dt_bias", {d_inner}, SyntheticValues::kDelta, 1.0, true},
          {"mamba/A_log", {d_inner, spec.sizes.states}, SyntheticValues::kALog, 1.0, true},
          {"mamba/D", {d_inner}, normal, 1.0, true},
          {"mamba/out_proj", {d_model, d_inner}, normal, fan_in(d_inner), true}};
}

std::vector<SyntheticBlockDataset> chela_datasets(const SyntheticSpec& spec) {
  const std::int64_t channels = spec.num_heads * spec.head_dim;
  const std::int64_t taps = std::min(spec.seq_len, spec.sizes.taps);
  const auto normal = SyntheticValues::kNormal;
  const auto parameter = [&](const char* name, std::vector<std::int64_t> shape, double deviation) {
    return SyntheticBlockDataset{name, std::move(shape), normal, deviation, true};
  };
  return {{"chela/x", {spec.batch, spec.seq_len, channels}},
          parameter("chela/short_conv/0", {channels, kSyntheticTaps}, 0.5),
          parameter("chela/short_conv/1", {channels, 1}, 0.5),
          parameter("chela/long_conv", {channels, taps}, fan_in(taps)),
          parameter("chela/kq", {channels}, 1.0),
          parameter("chela/mq", {channels}, 1.0),
          parameter("chela/kk", {channels}, 1.0),
          parameter("chela/mk", {channels}, 1.0),
          parameter("chela/w_v", {channels, channels}, fan_in(channels)),
          parameter("chela/w_g", {channels, channels}, fan_in(channels)),
          parameter("chela/w_o", {channels, channels}, fan_in(channels))};
}

/// Elements [first, first + out.size()) of a dataset.
void fill(const SyntheticSpec& spec, std::int64_t layer, int stream, const SyntheticBlockDataset& dataset,
          std::int64_t first, std::span<float> out) {
  fill_normal(spec.seed, layer, stream, first, out);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto state = static_cast<float>((first + static_cast<std::int64_t>(i)) % spec.sizes.states + 1);
    switch (dataset.values) {
      case SyntheticValues::kNormal:
        out[i] *= static_cast<float>(dataset.deviation);
        break;
      case SyntheticValues::kDelta:
        out[i] = static_cast<float>(std::log(std::expm1(std::clamp(0.01 * std::exp(0.8 * out[i]), 0.001, 0.1))));
        break;
      case SyntheticValues::kA:
        out[i] = -state;
        break;
      case SyntheticValues::kALog:
        out[i] = std::log(state);
        break;
    }
  }
}

std::vector<std::byte> converted(const std::vector<float>& values, ElementType type) {
  std::vector<std::byte> bytes(values.size() * size_of(type));
  convert_elements(values.data(), ElementType::kFloat32, bytes.data(), type, values.size());
  return bytes;
}

std::int64_t elements_from(const SyntheticBlockDataset& dataset, std::size_t axis) {
  return std::accumulate(dataset.shape.begin() + static_cast<std::ptrdiff_t>(std::min(axis, dataset.shape.size())),
                         dataset.shape.end(), std::int64_t{1}, std::multiplies<>());
}

}  // namespace

std::vector<SyntheticBlockDataset> synthetic_block_datasets(const SyntheticSpec& spec) {
  if (spec.kind == SyntheticKind::kChela) return chela_datasets(spec);
  return spec.kind == SyntheticKind::kSsm ? ssm_datasets(spec) : mamba_datasets(spec);
}

void fill_synthetic_block(const SyntheticSpec& spec, std::int64_t layer, const std::string& name, std::int64_t first,
                          std::span<float> out) {
  const std::vector<SyntheticBlockDataset> datasets = synthetic_block_datasets(spec);
  for (std::size_t i = 0; i < datasets.size(); ++i) {
    if (datasets[i].name != name) continue;
    return fill(spec, layer, kFirstStream + static_cast<int>(i), datasets[i], first, out);
  }
  throw failure("there is no synthetic " + name);
}

void write_synthetic_blocks(ActivationWriter& writer, const RankGroup& group, const SyntheticSpec& spec,
                            std::int64_t layer, const std::function<void(std::int64_t)>& on_bytes) {
  const SequenceLayout layout(LayoutKind::kContiguous, spec.seq_len, group.world_size(), 1);
  const TokenRun mine = layout.chunks(group.rank())[0].run;
  int stream = kFirstStream;
  for (const SyntheticBlockDataset& dataset : synthetic_block_datasets(spec)) {
    const ElementType type = dataset.is_parameter ? ElementType::kFloat32 : spec.dtype;
    const DatasetInfo info = writer.create(std::to_string(layer), dataset.name, type, dataset.shape);
    const std::int64_t seconds = dataset.shape.size() > 1 ? dataset.shape[1] : 1;
    const std::int64_t token = elements_from(dataset, 2);
    const std::int64_t row_bytes = dataset.shape[0] * token * static_cast<std::int64_t>(size_of(type));
    const std::int64_t step =
        dataset.is_parameter
            ? seconds
            : std::max<std::int64_t>(1, static_cast<std::int64_t>(kSlabBytes) / std::max<std::int64_t>(1, row_bytes));
    // A parameter is rank 0's to write.
    const TokenRun own = !dataset.is_parameter ? mine : TokenRun{0, group.rank() == 0 ? seconds : 0};
    const std::int64_t longest = dataset.is_parameter ? seconds : layout.max_local_tokens();
    SlabSelection selection;
    selection.heads.resize(static_cast<std::size_t>(dataset.shape.size() > 2 ? dataset.shape[2] : 1));
    std::iota(selection.heads.begin(), selection.heads.end(), 0);
    for (std::int64_t offset = 0; offset < longest; offset += step) {
      const TokenRun run = intersect(own, TokenRun{own.begin + offset, own.begin + offset + step});
      std::vector<float> values(static_cast<std::size_t>(run.empty() ? 0 : dataset.shape[0] * run.size() * token));
      const std::int64_t part = run.size() * token;
      for (std::int64_t batch = 0; batch < dataset.shape[0] && !values.empty(); ++batch) {
        fill(spec, layer, stream, dataset, (batch * seconds + run.begin) * token,
             std::span(values).subspan(static_cast<std::size_t>(batch * part), static_cast<std::size_t>(part)));
      }
      selection.tokens.clear();
      if (!run.empty()) selection.tokens = {run};
      const std::vector<std::byte> bytes = converted(values, type);
      writer.write_slab(info, selection, bytes.data());
    }
    on_bytes(elements_from(dataset, 0) * static_cast<std::int64_t>(size_of(type)));
    ++stream;
  }
}

}  // namespace ringscan
