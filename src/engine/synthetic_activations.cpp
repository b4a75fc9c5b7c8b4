#include "engine/synthetic_activations.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <vector>

#include "core/buffer.hpp"
#include "engine/synthetic_blocks.hpp"
#include "io/activation_file.hpp"
#include "sequence/sequence_layout.hpp"

namespace ringscan {

namespace {

constexpr std::size_t kSlabBytes = std::size_t{32} << 20;

// Long sticks: a key takes about e^z of the stick, on average e^(-12 + 1.5^2 / 2) = 2e-5.
constexpr double kLongStickMean = -12.0;
constexpr double kLongStickDeviation = 1.5;

constexpr float kLogDecayFactor = -0.05f;

/// The finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit of x reaches every bit of the result.
constexpr std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15u;

std::uint64_t stream_key(std::uint64_t seed, std::int64_t layer, int stream) {
  const std::uint64_t of_layer = mix(mix(seed + kGolden) + static_cast<std::uint64_t>(layer) * kGolden);
  return mix(of_layer + (static_cast<std::uint64_t>(stream) + 1) * kGolden);
}

/// Two standard normal values from a counter (Box and Muller 1958).
std::array<float, 2> normal_pair(std::uint64_t key, std::uint64_t counter) {
  const std::uint64_t bits = mix(key + counter * kGolden);
  const float uniform = (static_cast<float>(bits >> 32) + 1.0f) * 0x1p-32f;  // over 0
  const float angle = static_cast<float>(bits & 0xffffffffu) * (0x1p-31f * std::numbers::pi_v<float>);
  const float radius = std::sqrt(-2.0f * std::log(uniform));
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

/// value = offset + deviation * normal.
struct Affine {
  float offset = 0.0f;
  float deviation = 1.0f;
};

/// Long sticks: q = m + s n, k = -m + s n' in every component. With scale 1/sqrt(d), z has mean -m^2 sqrt(d) and
/// variance s^4 + 2 m^2 s^2; solved for the mean and deviation wanted.
Affine affine_of(const SyntheticSpec& spec, SyntheticDataset dataset) {
  if (spec.kind == SyntheticKind::kNormal || dataset == SyntheticDataset::kV ||
      dataset == SyntheticDataset::kLogDecay) {
    return {};
  }
  const double m_squared = -kLongStickMean / std::sqrt(static_cast<double>(spec.head_dim));
  const double s_squared = std::sqrt(m_squared * m_squared + kLongStickDeviation * kLongStickDeviation) - m_squared;
  const double sign = dataset == SyntheticDataset::kQ ? 1.0 : -1.0;
  return {static_cast<float>(sign * std::sqrt(m_squared)), static_cast<float>(std::sqrt(s_squared))};
}

std::array<std::int64_t, 4> shape_of(const SyntheticSpec& spec, SyntheticDataset dataset) {
  if (dataset == SyntheticDataset::kLogDecay) return {spec.batch, spec.seq_len, spec.num_linear_heads, 1};
  const std::int64_t heads = dataset == SyntheticDataset::kQ ? spec.num_heads : spec.num_kv_heads;
  return {spec.batch, spec.seq_len, heads, dataset == SyntheticDataset::kV ? spec.v_dim : spec.head_dim};
}

std::vector<std::pair<SyntheticDataset, const char*>> datasets_of(const SyntheticSpec& spec) {
  std::vector<std::pair<SyntheticDataset, const char*>> datasets{
      {SyntheticDataset::kQ, "q"}, {SyntheticDataset::kK, "k"}, {SyntheticDataset::kV, "v"}};
  if (spec.num_linear_heads > 0) datasets.emplace_back(SyntheticDataset::kLogDecay, "log_decay");
  return datasets;
}

/// Tokens written at once, all of batch, heads and dim: the same on all ranks, who take the same number of steps.
std::int64_t slab_tokens(const SyntheticSpec& spec, const std::array<std::int64_t, 4>& shape) {
  const std::size_t token_bytes = static_cast<std::size_t>(shape[0] * shape[2] * shape[3]) * size_of(spec.dtype);
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(kSlabBytes / std::max<std::size_t>(1, token_bytes)));
}

/// [batch, run, heads, dim] of a dataset in the file's type, converted a few thousand elements at a time.
void fill_slab(const SyntheticSpec& spec, std::int64_t layer, SyntheticDataset dataset, const TokenRun& run,
               std::byte* slab) {
  const auto shape = shape_of(spec, dataset);
  const std::int64_t token_elements = shape[2] * shape[3];
  std::array<float, 4096> values;
  for (std::int64_t batch = 0; batch < shape[0]; ++batch) {
    std::int64_t first = (batch * shape[1] + run.begin) * token_elements;
    const std::int64_t end = first + run.size() * token_elements;
    while (first < end) {
      const auto count = static_cast<std::size_t>(std::min<std::int64_t>(end - first, values.size()));
      fill_synthetic(spec, layer, dataset, first, std::span(values).first(count));
      convert_elements(values.data(), ElementType::kFloat32, slab, spec.dtype, count);
      slab += count * size_of(spec.dtype);
      first += static_cast<std::int64_t>(count);
    }
  }
}

}  // namespace

std::string_view name_of(SyntheticKind kind) {
  switch (kind) {
    case SyntheticKind::kLongStick:
      return "long-stick";
    case SyntheticKind::kSsm:
      return "ssm";
    case SyntheticKind::kMamba:
      return "mamba";
    case SyntheticKind::kChela:
      return "chela";
    case SyntheticKind::kNormal:
      break;
  }
  return "normal";
}

bool SyntheticSpec::is_block() const {
  return kind == SyntheticKind::kSsm || kind == SyntheticKind::kMamba || kind == SyntheticKind::kChela;
}

std::int64_t SyntheticSpec::payload_bytes() const {
  if (is_block()) {
    std::int64_t bytes = 0;
    for (const SyntheticBlockDataset& dataset : synthetic_block_datasets(*this)) {
      std::int64_t elements = 1;
      for (const std::int64_t extent : dataset.shape) elements *= extent;
      bytes += elements * static_cast<std::int64_t>(size_of(dataset.is_parameter ? ElementType::kFloat32 : dtype));
    }
    return num_layers * bytes;
  }
  std::int64_t elements = 0;
  for (const auto& [dataset, name] : datasets_of(*this)) elements += element_count(shape_of(*this, dataset));
  return num_layers * elements * static_cast<std::int64_t>(size_of(dtype));
}

void fill_normal(std::uint64_t seed, std::int64_t layer, int stream, std::int64_t first, std::span<float> out) {
  const std::uint64_t key = stream_key(seed, layer, stream);
  auto element = static_cast<std::uint64_t>(first);
  std::size_t i = 0;
  if (element % 2 == 1 && !out.empty()) {
    out[i++] = normal_pair(key, element / 2)[1];
    ++element;
  }
  for (; i + 2 <= out.size(); i += 2, element += 2) {
    const std::array<float, 2> pair = normal_pair(key, element / 2);
    out[i] = pair[0];
    out[i + 1] = pair[1];
  }
  if (i < out.size()) out[i] = normal_pair(key, element / 2)[0];
}

void fill_synthetic(const SyntheticSpec& spec, std::int64_t layer, SyntheticDataset dataset, std::int64_t first,
                    std::span<float> out) {
  fill_normal(spec.seed, layer, static_cast<int>(dataset), first, out);
  const Affine affine = affine_of(spec, dataset);
  const bool is_decay = dataset == SyntheticDataset::kLogDecay;
  for (float& x : out) x = is_decay ? kLogDecayFactor * x * x : affine.offset + affine.deviation * x;
}

void write_synthetic(FileAccess& access, const SyntheticSpec& spec, const std::string& path, bool overwrite,
                     const std::function<void(double)>& on_progress) {
  const int rank = access.group().rank();
  const SequenceLayout layout(LayoutKind::kContiguous, spec.seq_len, access.group().world_size(), 1);
  const TokenRun mine = layout.chunks(rank)[0].run;
  ActivationWriter writer(access, path, overwrite);
  writer.set_attribute("program", std::string("ringscan ") + RINGSCAN_VERSION);
  writer.set_attribute("kind", std::string(name_of(spec.kind)));
  writer.set_attribute("seed", static_cast<std::int64_t>(spec.seed));

  std::int64_t done_bytes = 0;
  for (std::int64_t layer = 0; layer < spec.num_layers && spec.is_block(); ++layer) {
    write_synthetic_blocks(writer, access.group(), spec, layer, [&](std::int64_t bytes) {
      done_bytes += bytes;
      on_progress(std::min(1.0, static_cast<double>(done_bytes) / static_cast<double>(spec.payload_bytes())));
    });
  }
  for (std::int64_t layer = 0; layer < spec.num_layers && !spec.is_block(); ++layer) {
    for (const auto& [dataset, name] : datasets_of(spec)) {
      const auto shape = shape_of(spec, dataset);
      // log_decay has no dimension within a head.
      const auto end = dataset == SyntheticDataset::kLogDecay ? shape.end() - 1 : shape.end();
      const DatasetInfo info = writer.create(std::to_string(layer), name, spec.dtype, {shape.begin(), end});
      const std::int64_t step = slab_tokens(spec, shape);
      const std::int64_t token_bytes = shape[0] * shape[2] * shape[3] * static_cast<std::int64_t>(size_of(spec.dtype));
      Buffer slab(static_cast<std::size_t>(std::min(step, mine.size()) * token_bytes));
      std::vector<int> heads(static_cast<std::size_t>(shape[2]));
      for (std::size_t head = 0; head < heads.size(); ++head) heads[head] = static_cast<int>(head);
      for (std::int64_t offset = 0; offset < layout.max_local_tokens(); offset += step) {
        const TokenRun run = intersect(mine, {mine.begin + offset, mine.begin + offset + step});
        SlabSelection selection{{}, heads};
        if (!run.empty()) {
          selection.tokens = {run};
          fill_slab(spec, layer, dataset, run, slab.as<std::byte>());
        }
        writer.write_slab(info, selection, slab.data());
        done_bytes += std::min(step, layout.max_local_tokens() - offset) * token_bytes * layout.world_size();
        on_progress(std::min(1.0, static_cast<double>(done_bytes) / static_cast<double>(spec.payload_bytes())));
      }
    }
  }
  writer.finish();
}

}  // namespace ringscan
