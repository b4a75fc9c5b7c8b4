#include "engine/linear_layer.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "core/error.hpp"

namespace ringscan {
namespace {

constexpr const char* kLogDecay = "log_decay";
constexpr const char* kStateS = "state/S";
constexpr const char* kStateN = "state/n_vector";

bool has_normalizer(const RunConfig& config) {
  return linear_params_of(config)->normalizer == Normalizer::kZ;
}

/// Elements of S and of n for one head and batch item.
std::size_t s_elements(const LayerShape& layer) {
  return static_cast<std::size_t>(layer.head_dim * layer.v_dim);
}
std::size_t n_elements(const LayerShape& layer) {
  return static_cast<std::size_t>(layer.head_dim);
}

SlabSelection decay_selection(const DatasetInfo& dataset, const LayerShape& layer, const ShardPlan& shard, int rank,
                              const RunConfig& config, const std::vector<int>& heads) {
  SlabSelection selection;
  for (const Chunk& chunk : shard.layout.chunks(rank)) {
    if (!chunk.run.empty()) selection.tokens.push_back(chunk.run);
  }
  const std::vector<int> all = linear_heads_of(config, layer.num_heads);
  for (const int head : heads) selection.heads.push_back(decay_column(dataset, layer, all, head));
  return selection;
}

/// A log decay over 0 would grow the state without bound: found before anything is computed from it.
void check_not_positive(const std::string& path, const DatasetInfo& dataset, const SlabSelection& selection,
                        const LayerShape& layer, const AnyView& view) {
  for (std::int64_t b = 0; b < layer.batch; ++b) {
    for (std::int64_t t = 0; t < view.shape[1]; ++t) {
      for (std::int64_t h = 0; h < view.shape[2]; ++h) {
        float value = 0.0f;
        convert_elements(view.row(b, t, h), view.type, &value, ElementType::kFloat32, 1);
        if (!(value > 0.0f)) continue;
        throw bad_input(path + ": dataset " + dataset.path + ": element [" + std::to_string(b) + ", " +
                        std::to_string(selection.tokens.front().begin + t) + ", " +
                        std::to_string(selection.heads[static_cast<std::size_t>(h)]) + "] is " + std::to_string(value) +
                        ", want a log decay of 0 or less");
      }
    }
  }
}

/// The rows of `heads` out of [batch, all heads, elements].
std::vector<double> select_heads(const std::vector<double>& whole, std::int64_t batch, const std::vector<int>& all,
                                 const std::vector<int>& heads, std::size_t elements) {
  std::vector<double> selected;
  for (std::size_t b = 0; b < static_cast<std::size_t>(batch); ++b) {
    for (const int head : heads) {
      const auto first = whole.begin() + static_cast<std::ptrdiff_t>((b * all.size() + place_of(all, head)) * elements);
      selected.insert(selected.end(), first, first + static_cast<std::ptrdiff_t>(elements));
    }
  }
  return selected;
}

/// The group's states out of the shard's, for the kernels.
std::vector<LinearState> load_initial(const LinearGroupTask& task, const LinearKernels& kernels, MemoryLedger* ledger) {
  const LinearStates& initial = task.input->initial;
  if (initial.s.empty()) return {};
  const LayerShape& layer = *task.layer;
  const bool with_n = !initial.n.empty();
  const std::vector<int>& heads = task.group->heads;
  const StateGroups groups(heads.size(), kernels);
  std::vector<LinearState> states =
      groups.make_states({layer.batch, 1, layer.head_dim, layer.v_dim, with_n}, kernels, ledger);
  for (std::size_t slot = 0; slot < heads.size(); ++slot) {
    for (std::int64_t b = 0; b < layer.batch; ++b) {
      const std::size_t at =
          static_cast<std::size_t>(b) * task.input->heads.size() + place_of(task.input->heads, heads[slot]);
      const std::size_t s_size = s_elements(layer);
      const std::size_t n_size = n_elements(layer);
      kernels.store(states[groups.group_of(slot)], b, groups.place_of(slot),
                    std::span(initial.s).subspan(at * s_size, s_size),
                    with_n ? std::span(initial.n).subspan(at * n_size, n_size) : std::span<const double>());
    }
  }
  return states;
}

void keep_final(const LinearGroupTask& task, const LinearKernels& kernels, const std::vector<LinearState>& states) {
  const LayerShape& layer = *task.layer;
  const std::size_t heads = task.input->heads.size();
  const std::size_t s_size = s_elements(layer);
  const std::size_t n_size = n_elements(layer);
  const bool with_n = has_normalizer(*task.config);
  const auto rows = static_cast<std::size_t>(layer.batch) * heads;
  task.states->s.resize(rows * s_size);
  if (with_n) task.states->n.resize(rows * n_size);
  const StateGroups groups(task.group->heads.size(), kernels);
  for (std::size_t slot = 0; slot < task.group->heads.size(); ++slot) {
    for (std::int64_t b = 0; b < layer.batch; ++b) {
      const std::size_t at = static_cast<std::size_t>(b) * heads + place_of(task.input->heads, task.group->heads[slot]);
      kernels.load(states[groups.group_of(slot)], b, groups.place_of(slot),
                   std::span(task.states->s).subspan(at * s_size, s_size),
                   with_n ? std::span(task.states->n).subspan(at * n_size, n_size) : std::span<double>());
    }
  }
}

}  // namespace

const LinearParams* linear_params_of(const RunConfig& config) {
  for (const HeadAssignment& assignment : config.assignments) {
    if (const auto* params = std::get_if<LinearParams>(&assignment.mechanism)) return params;
  }
  return nullptr;
}

std::vector<int> linear_heads_of(const RunConfig& config, int num_heads) {
  for (const HeadAssignment& assignment : config.assignments) {
    if (!std::holds_alternative<LinearParams>(assignment.mechanism)) continue;
    std::vector<int> heads = assignment.heads;
    if (heads.empty()) {
      heads.resize(static_cast<std::size_t>(num_heads));
      std::iota(heads.begin(), heads.end(), 0);
    }
    std::sort(heads.begin(), heads.end());
    return heads;
  }
  return {};
}

std::vector<int> linear_heads_of(const RunConfig& config, int num_heads, const std::vector<int>& heads) {
  const std::vector<int> all = linear_heads_of(config, num_heads);
  std::vector<int> here;
  std::set_intersection(all.begin(), all.end(), heads.begin(), heads.end(), std::back_inserter(here));
  return here;
}

std::optional<DatasetInfo> find_log_decay(const ActivationReader& reader, const LayerShape& layer,
                                          const RunConfig& config) {
  const LinearParams* params = linear_params_of(config);
  if (params == nullptr || params->decay != Decay::kToken) return std::nullopt;
  const DatasetInfo found = reader.require(layer.name, kLogDecay, {layer.batch, layer.seq_len, -1});
  const auto num_linear = static_cast<std::int64_t>(linear_heads_of(config, layer.num_heads).size());
  if (found.shape[2] == layer.num_heads || found.shape[2] == num_linear) return found;
  throw bad_input(reader.path() + ": dataset " + found.path + ": " + std::to_string(found.shape[2]) +
                  " columns found, " + std::to_string(layer.num_heads) + " (all heads) or " +
                  std::to_string(num_linear) + " (the linear heads) wanted");
}

void check_head_decays(const RunConfig& config, const LayerShape& layer) {
  const LinearParams* params = linear_params_of(config);
  if (params == nullptr || params->decay != Decay::kHead) return;
  const std::size_t num_linear = linear_heads_of(config, layer.num_heads).size();
  if (config.linear_head_decay.size() == num_linear) return;
  throw bad_input("linear.head-decay: found " + std::to_string(config.linear_head_decay.size()) + " numbers, want " +
                  std::to_string(num_linear) + ", one a linear head");
}

void check_initial_state(const ActivationReader& initial, const LayerShape& layer, const RunConfig& config) {
  if (linear_params_of(config) == nullptr) return;
  const auto heads = static_cast<std::int64_t>(linear_heads_of(config, layer.num_heads).size());
  initial.require(layer.name, kStateS, {layer.batch, heads, layer.head_dim, layer.v_dim});
  if (has_normalizer(config)) initial.require(layer.name, kStateN, {layer.batch, heads, layer.head_dim});
}

int decay_column(const DatasetInfo& log_decay, const LayerShape& layer, const std::vector<int>& linear_heads,
                 int head) {
  return log_decay.shape[2] == layer.num_heads ? head : place_of(linear_heads, head);
}

LinearInput read_linear_input(ActivationReader& reader, ActivationReader* initial, const LayerShape& layer,
                              const ShardPlan& shard, int rank, const RunConfig& config, MemoryLedger* ledger) {
  LinearInput input;
  input.heads = linear_heads_of(config, layer.num_heads, shard.heads);
  if (input.heads.empty()) return input;
  if (const auto dataset = find_log_decay(reader, layer, config)) {
    const SlabSelection selection = decay_selection(*dataset, layer, shard, rank, config, input.heads);
    input.log_decay_buffer = reader.read_slab(*dataset, selection, !config.allow_nonfinite, ledger);
    input.log_decay =
        dense_any_view(std::as_const(input.log_decay_buffer).data(), type_in_memory(dataset->type),
                       {layer.batch, selection.token_count(), static_cast<std::int64_t>(input.heads.size()), 1});
    run_collectively(reader.group(),
                     [&] { check_not_positive(reader.path(), *dataset, selection, layer, input.log_decay); });
  }
  if (initial != nullptr) input.initial = read_states(*initial, layer, config, input.heads);
  return input;
}

LinearStates read_states(ActivationReader& file, const LayerShape& layer, const RunConfig& config,
                         const std::vector<int>& heads) {
  run_collectively(file.group(), [&] { check_initial_state(file, layer, config); });
  const std::vector<int> all = linear_heads_of(config, layer.num_heads);
  const auto read = [&](const char* dataset, std::size_t elements) {
    return select_heads(file.read_whole(*file.find(layer.name, dataset)), layer.batch, all, heads, elements);
  };
  LinearStates states;
  states.s = read(kStateS, s_elements(layer));
  if (has_normalizer(config)) states.n = read(kStateN, n_elements(layer));
  return states;
}

std::optional<DatasetInfo> find_state(const ActivationReader& output, const LayerShape& layer,
                                      const RunConfig& config) {
  if (!output.find(layer.name, kStateS)) return std::nullopt;
  const auto heads = static_cast<std::int64_t>(linear_heads_of(config, layer.num_heads).size());
  return output.require(layer.name, kStateS, {layer.batch, heads, layer.head_dim, layer.v_dim});
}

std::optional<DatasetInfo> find_state_n(const ActivationReader& output, const LayerShape& layer,
                                        const RunConfig& config) {
  if (!output.find(layer.name, kStateN)) return std::nullopt;
  const auto heads = static_cast<std::int64_t>(linear_heads_of(config, layer.num_heads).size());
  return output.require(layer.name, kStateN, {layer.batch, heads, layer.head_dim});
}

std::size_t linear_io_bytes(const RunConfig& config, const LayerShape& layer, const ShardPlan& shard,
                            std::int64_t tokens) {
  const std::size_t heads = linear_heads_of(config, layer.num_heads, shard.heads).size();
  // Log decays as the file has them (float64 on its way to float32), states in fp64 as they come and go.
  const bool by_token = heads > 0 && linear_params_of(config)->decay == Decay::kToken;
  const std::size_t decays = by_token ? static_cast<std::size_t>(layer.batch * tokens) * (4 + 8) : 0;
  const std::size_t state = static_cast<std::size_t>(layer.batch) * (s_elements(layer) + n_elements(layer)) * 8;
  const std::size_t times = (config.initial_state.empty() ? 0u : 2u) + (config.want_state ? 1u : 0u);
  return heads * (decays + times * state);
}

LinearStateOutput create_linear_states(ActivationWriter& writer, const LayerShape& layer, const RunConfig& config) {
  LinearStateOutput output;
  if (!config.want_state || linear_params_of(config) == nullptr) return output;
  const auto heads = static_cast<std::int64_t>(linear_heads_of(config, layer.num_heads).size());
  // fp64 holds what the next job needs to go on with the same bits.
  output.s =
      writer.create(layer.name, kStateS, ElementType::kFloat64, {layer.batch, heads, layer.head_dim, layer.v_dim});
  if (has_normalizer(config)) {
    output.n = writer.create(layer.name, kStateN, ElementType::kFloat64, {layer.batch, heads, layer.head_dim});
  }
  return output;
}

void write_linear_states(ActivationWriter& writer, const LinearStateOutput& datasets, const LayerShape& layer,
                         const ShardPlan& shard, const RunConfig& config, const LinearStates& states) {
  const std::vector<int> heads = linear_heads_of(config, layer.num_heads, shard.heads);
  if (!config.want_state || heads.empty()) return;
  const std::vector<int> all = linear_heads_of(config, layer.num_heads);
  SlabSelection selection;
  for (int dim = 0; dim < static_cast<int>(layer.head_dim); ++dim) selection.heads.push_back(dim);
  if (!states.s.empty()) {
    for (const int head : heads) {
      const std::int64_t at = place_of(all, head);
      if (!selection.tokens.empty() && selection.tokens.back().end == at) {
        selection.tokens.back().end = at + 1;
      } else {
        selection.tokens.push_back({at, at + 1});
      }
    }
  }
  writer.write_slab(datasets.s, selection, states.s.data());
  if (has_normalizer(config)) writer.write_slab(datasets.n, selection, states.n.data());
}

RingPassResult run_linear_group(const LinearGroupTask& task, Transport& transport, const LinearKernels& kernels,
                                MemoryLedger* ledger, const PassProgress& on_progress) {
  const RunConfig& config = *task.config;
  const std::vector<int> all = linear_heads_of(config, task.layer->num_heads);
  LinearPassTask pass;
  pass.layout = &task.shard->layout;
  pass.params = std::get<LinearParams>(task.pass->mechanism);
  pass.scale = task.pass->scale;
  pass.q = task.q;
  pass.k = task.k;
  pass.v = task.v;
  pass.slots = task.slots;
  pass.log_decay = task.log_decay;
  std::vector<int> columns;
  std::vector<double> decays;
  for (const int head : task.group->heads) {
    columns.push_back(place_of(task.input->heads, head));
    if (pass.params.decay == Decay::kHead) decays.push_back(config.linear_head_decay[place_of(all, head)]);
  }
  pass.decay_columns = columns;
  pass.head_log_decay = decays;
  pass.o = task.o;
  pass.reproducible = config.reproducible;
  const std::vector<LinearState> initial = load_initial(task, kernels, ledger);
  pass.initial = initial;
  std::vector<LinearState> final_states;
  if (config.want_state) pass.final_states = &final_states;
  const RingPassResult result = run_linear_pass(pass, transport, kernels, ledger, on_progress);
  if (!final_states.empty()) keep_final(task, kernels, final_states);
  return result;
}

}  // namespace ringscan
