#include "engine/layer_io.hpp"

#include <algorithm>
#include <limits>

#include "core/error.hpp"

namespace ringscan {
namespace {

constexpr std::int64_t kMaxHeadDim = 256;

SlabSelection select(const ShardPlan& shard, int rank, const std::vector<int>& heads) {
  SlabSelection selection;
  for (const Chunk& chunk : shard.layout.chunks(rank)) {
    if (!chunk.run.empty()) selection.tokens.push_back(chunk.run);
  }
  selection.heads = heads;
  return selection;
}

void check_head_dim(const ActivationReader& reader, const DatasetInfo& dataset) {
  const std::int64_t dim = dataset.shape[3];
  if (dim >= 1 && dim <= kMaxHeadDim) return;
  throw bad_input(reader.path() + ": " + dataset.path + " has " + std::to_string(dim) + " elements a head; want 1 to " +
                  std::to_string(kMaxHeadDim));
}

bool wants_remainder_vector(const RunConfig& config) {
  return std::any_of(config.assignments.begin(), config.assignments.end(), [](const HeadAssignment& assignment) {
    const auto* stick = std::get_if<StickBreakingParams>(&assignment.mechanism);
    return stick != nullptr && stick->remainder == RemainderPolicy::kVector;
  });
}

Buffer read_remainder_vectors(ActivationReader& reader, const LayerShape& layer, const ShardPlan& shard,
                              MemoryLedger* ledger) {
  const DatasetInfo dataset = reader.require(layer.name, "remainder_value", {layer.num_heads, layer.v_dim});
  const std::vector<double> whole = reader.read_whole(dataset);
  const auto dim = static_cast<std::size_t>(layer.v_dim);
  Buffer buffer(shard.heads.size() * dim * sizeof(float), ledger);
  auto* target = buffer.as<float>();
  for (const int head : shard.heads) {
    const auto first = whole.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(head) * dim);
    target = std::transform(first, first + static_cast<std::ptrdiff_t>(dim), target,
                            [](double x) { return static_cast<float>(x); });
  }
  return buffer;
}

}  // namespace

LayerShape inspect_layer(const ActivationReader& reader, const std::string& name, const RunConfig& config) {
  const DatasetInfo q = reader.require(name, "q", {-1, -1, -1, -1});
  const DatasetInfo k = reader.require(name, "k", {q.shape[0], q.shape[1], -1, q.shape[3]});
  const DatasetInfo v = reader.require(name, "v", {q.shape[0], q.shape[1], k.shape[2], -1});
  check_head_dim(reader, q);
  check_head_dim(reader, v);
  if (k.shape[2] < 1 || q.shape[2] < 1 || q.shape[2] % k.shape[2] != 0) {
    throw bad_input(reader.path() + ": " + q.path + " has " + std::to_string(q.shape[2]) + " heads and " + k.path +
                    " " + std::to_string(k.shape[2]) + ": the query heads must be a multiple of the KV heads");
  }
  if (wants_remainder_vector(config)) reader.require(name, "remainder_value", {q.shape[2], v.shape[3]});

  LayerShape layer;
  layer.name = name;
  layer.batch = q.shape[0];
  layer.seq_len = q.shape[1];
  layer.num_heads = static_cast<int>(q.shape[2]);
  layer.num_kv_heads = static_cast<int>(k.shape[2]);
  layer.head_dim = q.shape[3];
  layer.v_dim = v.shape[3];
  layer.q_type = type_in_memory(q.type);
  // k and v travel in one message of one type.
  layer.kv_type = type_in_memory(k.type) == type_in_memory(v.type) ? type_in_memory(k.type) : ElementType::kFloat32;
  layer.q_staging = staging_bytes(q, layer.q_type);
  layer.kv_staging = std::max(staging_bytes(k, layer.kv_type), staging_bytes(v, layer.kv_type));
  layer.o_type = config.output_dtype.value_or(q.type);
  find_log_decay(reader, layer, config);
  return layer;
}

std::size_t staging_bytes(const DatasetInfo& dataset, ElementType type) {
  const std::size_t converted_here = type_in_memory(dataset.type) == type ? 0 : size_of(type_in_memory(dataset.type));
  return converted_here + (dataset.type == ElementType::kFloat64 ? size_of(dataset.type) : 0);
}

Buffer read_slab_as(ActivationReader& reader, const DatasetInfo& dataset, const SlabSelection& selection,
                    ElementType type, bool check_finite, MemoryLedger* ledger) {
  Buffer slab = reader.read_slab(dataset, selection, check_finite, ledger);
  const ElementType read_type = type_in_memory(dataset.type);
  if (read_type == type) return slab;
  const std::size_t count = slab.size_bytes() / size_of(read_type);
  Buffer converted(count * size_of(type), ledger);
  convert_elements(slab.data(), read_type, converted.data(), type, count);
  return converted;
}

ShardInput read_shard(ActivationReader& reader, ActivationReader* initial, const RunPlan& plan, const ShardPlan& shard,
                      int rank, const RunConfig& config, MemoryLedger* ledger) {
  const LayerShape& layer = plan.layers[static_cast<std::size_t>(shard.layer)];
  const std::int64_t tokens = shard.layout.local_tokens(rank);
  const auto heads = static_cast<std::int64_t>(shard.heads.size());
  const auto kv_heads = static_cast<std::int64_t>(shard.kv_heads.size());
  const auto read = [&](const char* dataset, const std::vector<int>& which, ElementType type) {
    return read_slab_as(reader, *reader.find(layer.name, dataset), select(shard, rank, which), type,
                        !config.allow_nonfinite, ledger);
  };
  ShardInput input;
  input.q_buffer = read("q", shard.heads, layer.q_type);
  input.k_buffer = read("k", shard.kv_heads, layer.kv_type);
  input.v_buffer = read("v", shard.kv_heads, layer.kv_type);
  input.q =
      dense_any_view(std::as_const(input.q_buffer).data(), layer.q_type, {layer.batch, tokens, heads, layer.head_dim});
  input.k = dense_any_view(std::as_const(input.k_buffer).data(), layer.kv_type,
                           {layer.batch, tokens, kv_heads, layer.head_dim});
  input.v =
      dense_any_view(std::as_const(input.v_buffer).data(), layer.kv_type, {layer.batch, tokens, kv_heads, layer.v_dim});
  if (wants_remainder_vector(config)) {
    input.remainder_value_buffer = read_remainder_vectors(reader, layer, shard, ledger);
    input.remainder_value = dense_any_view(std::as_const(input.remainder_value_buffer).data(), ElementType::kFloat32,
                                           {1, 1, heads, layer.v_dim});
  }
  input.linear = read_linear_input(reader, initial, layer, shard, rank, config, ledger);
  return input;
}

ShardOutput make_shard_output(const RunPlan& plan, const ShardPlan& shard, int rank, const RunConfig& config,
                              MemoryLedger* ledger) {
  const LayerShape& layer = plan.layers[static_cast<std::size_t>(shard.layer)];
  const std::int64_t tokens = shard.layout.local_tokens(rank);
  const auto heads = static_cast<std::int64_t>(shard.heads.size());
  const Shape4 o_shape{layer.batch, tokens, heads, layer.v_dim};
  const Shape4 statistic_shape{layer.batch, tokens, heads, 1};
  ShardOutput output;
  output.o_buffer = Buffer(static_cast<std::size_t>(element_count(o_shape)) * size_of(layer.o_type), ledger);
  output.o = dense_any_view(output.o_buffer.data(), layer.o_type, o_shape);
  const auto make_statistic = [&](Buffer& buffer, TensorView<float>& view) {
    const auto count = static_cast<std::size_t>(element_count(statistic_shape));
    buffer = Buffer(count * sizeof(float), ledger);
    std::fill_n(buffer.as<float>(), count, std::numeric_limits<float>::quiet_NaN());
    view = dense_view(buffer.as<float>(), statistic_shape);
  };
  if (config.want_lse) make_statistic(output.lse_buffer, output.lse);
  if (config.want_remainder) make_statistic(output.remainder_buffer, output.remainder);
  if (config.want_kept_mass) make_statistic(output.kept_mass_buffer, output.kept_mass);
  return output;
}

LayerOutput create_layer_output(ActivationWriter& writer, const LayerShape& layer, const RunConfig& config) {
  LayerOutput output;
  output.o = writer.create(layer.name, "o", layer.o_type, {layer.batch, layer.seq_len, layer.num_heads, layer.v_dim});
  const std::vector<std::int64_t> statistic{layer.batch, layer.seq_len, layer.num_heads};
  if (config.want_lse) output.lse = writer.create(layer.name, "lse", ElementType::kFloat32, statistic);
  if (config.want_remainder)
    output.remainder = writer.create(layer.name, "remainder", ElementType::kFloat32, statistic);
  if (config.want_kept_mass)
    output.kept_mass = writer.create(layer.name, "kept_mass", ElementType::kFloat32, statistic);
  output.states = create_linear_states(writer, layer, config);
  return output;
}

void write_shard(ActivationWriter& writer, const LayerOutput& layer_output, const LayerShape& layer,
                 const ShardPlan& shard, int rank, const RunConfig& config, const ShardOutput& output) {
  const SlabSelection selection = select(shard, rank, shard.heads);
  writer.write_slab(layer_output.o, selection, output.o_buffer.data());
  if (config.want_lse) writer.write_slab(layer_output.lse, selection, output.lse_buffer.data());
  if (config.want_remainder) writer.write_slab(layer_output.remainder, selection, output.remainder_buffer.data());
  if (config.want_kept_mass) writer.write_slab(layer_output.kept_mass, selection, output.kept_mass_buffer.data());
  write_linear_states(writer, layer_output.states, layer, shard, config, output.states);
}

}  // namespace ringscan
