#pragma once
// What the linear heads of a layer have beside q, k, v and o: log decays, the state that stands before the sequence and
// the one behind it. Between files and the pass.

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/transport.hpp"
#include "core/buffer.hpp"
#include "core/tensor_view.hpp"
#include "engine/linear_pass.hpp"
#include "engine/run_config.hpp"
#include "engine/run_plan.hpp"
#include "io/activation_file.hpp"

namespace ringscan {

/// The parameters of the linear heads; nullptr where no head is linear.
const LinearParams* linear_params_of(const RunConfig& config);

/// The layer's linear heads, ascending; `heads` restricts them to those of a shard (ascending).
std::vector<int> linear_heads_of(const RunConfig& config, int num_heads);
std::vector<int> linear_heads_of(const RunConfig& config, int num_heads, const std::vector<int>& heads);

/// The layer's log_decay, checked: [batch, seq, n], n all heads or the linear heads in order. none: no head wants it.
/// @throws Error(kBadInput), as the next.
std::optional<DatasetInfo> find_log_decay(const ActivationReader& reader, const LayerShape& layer,
                                          const RunConfig& config);
/// As many constant log decays as linear heads, where they are wanted.
void check_head_decays(const RunConfig& config, const LayerShape& layer);
/// The state datasets of a layer, checked against its shape.
void check_initial_state(const ActivationReader& initial, const LayerShape& layer, const RunConfig& config);

/// The column of log_decay that a head of the layer has.
int decay_column(const DatasetInfo& log_decay, const LayerShape& layer, const std::vector<int>& linear_heads, int head);

/// States of some heads, exact: S [batch, heads, head_dim, v_dim] and, with Normalizer::kZ, n [batch, heads, head_dim].
struct LinearStates {
  std::vector<double> s;
  std::vector<double> n;
};

/// Collective. Those of `heads` (some of the linear heads), on every rank. @throws Error(kBadInput) where they do not
/// fit.
LinearStates read_states(ActivationReader& file, const LayerShape& layer, const RunConfig& config,
                         const std::vector<int>& heads);

/// S and n as an output has them, where it has them.
std::optional<DatasetInfo> find_state(const ActivationReader& output, const LayerShape& layer, const RunConfig& config);
std::optional<DatasetInfo> find_state_n(const ActivationReader& output, const LayerShape& layer,
                                        const RunConfig& config);

/// For a shard's linear heads; empty where it has none.
struct LinearInput {
  std::vector<int> heads;  ///< of the layer, ascending
  Buffer log_decay_buffer;
  AnyView log_decay;     ///< [batch, local tokens, heads, 1]; data == nullptr where not wanted
  LinearStates initial;  ///< empty: none; the same on all ranks
};

/// Collective. `initial` may be null. @throws Error(kBadInput) for a log decay over 0, naming its place.
LinearInput read_linear_input(ActivationReader& reader, ActivationReader* initial, const LayerShape& layer,
                              const ShardPlan& shard, int rank, const RunConfig& config, MemoryLedger* ledger);

/// Bytes of the above, and of the states that go out, for a rank with `tokens` tokens.
std::size_t linear_io_bytes(const RunConfig& config, const LayerShape& layer, const ShardPlan& shard,
                            std::int64_t tokens);

/// The datasets of a layer's states.
struct LinearStateOutput {
  DatasetInfo s;
  DatasetInfo n;
};
/// Collective; nothing where no state is wanted.
LinearStateOutput create_linear_states(ActivationWriter& writer, const LayerShape& layer, const RunConfig& config);
/// Collective. `states` is of the shard's linear heads on the rank that has them, and empty on the others.
void write_linear_states(ActivationWriter& writer, const LinearStateOutput& datasets, const LayerShape& layer,
                         const ShardPlan& shard, const RunConfig& config, const LinearStates& states);

/// One head group of a shard, from its input to o and, where wanted, the final states (into `states`, on the rank that
/// has them).
struct LinearGroupTask {
  const RunConfig* config = nullptr;
  const LayerShape* layer = nullptr;
  const ShardPlan* shard = nullptr;
  const PassPlan* pass = nullptr;
  const HeadGroup* group = nullptr;
  std::span<const HeadSlot> slots;
  AnyView q;
  AnyView k;
  AnyView v;
  AnyView log_decay;  ///< the input's, where the kernels read it
  const LinearInput* input = nullptr;
  MutableAnyView o;
  LinearStates* states = nullptr;
};
/// Collective.
RingPassResult run_linear_group(const LinearGroupTask& task, Transport& transport, const LinearKernels& kernels,
                                MemoryLedger* ledger, const PassProgress& on_progress);

}  // namespace ringscan
