#pragma once
// One rank's shard of a layer, between file and engine.

#include <cstdint>
#include <string>

#include "core/buffer.hpp"
#include "core/tensor_view.hpp"
#include "engine/linear_layer.hpp"
#include "engine/run_config.hpp"
#include "engine/run_plan.hpp"
#include "io/activation_file.hpp"

namespace ringscan {

/// Shapes and types of a layer, checked against each other and against what the mechanisms need.
/// @throws Error(kBadInput) naming file, dataset, what was found and what is wanted.
LayerShape inspect_layer(const ActivationReader& reader, const std::string& layer, const RunConfig& config);

/// Bytes an element takes besides, while it is read as `type`.
std::size_t staging_bytes(const DatasetInfo& dataset, ElementType type);

/// Collective. A slab whose elements are converted to `type` where the file has another.
Buffer read_slab_as(ActivationReader& reader, const DatasetInfo& dataset, const SlabSelection& selection,
                    ElementType type, bool check_finite, MemoryLedger* ledger);

/// This rank's tokens of a shard's heads.
struct ShardInput {
  Buffer q_buffer;
  Buffer k_buffer;
  Buffer v_buffer;
  Buffer remainder_value_buffer;
  AnyView q;                ///< [batch, local tokens, shard heads, head_dim]
  AnyView k;                ///< [batch, local tokens, shard KV heads, head_dim]
  AnyView v;                ///< [batch, local tokens, shard KV heads, v_dim]
  AnyView remainder_value;  ///< [1, 1, shard heads, v_dim] float32; data == nullptr where no head wants it
  LinearInput linear;       ///< what its linear heads have besides
};

/// Collective. `initial` is the file of config.initial_state, null without one.
ShardInput read_shard(ActivationReader& reader, ActivationReader* initial, const RunPlan& plan, const ShardPlan& shard,
                      int rank, const RunConfig& config, MemoryLedger* ledger);

/// What a rank computes for a shard. Heads without the statistic hold NaN there.
struct ShardOutput {
  Buffer o_buffer;
  Buffer lse_buffer;
  Buffer remainder_buffer;
  Buffer kept_mass_buffer;
  MutableAnyView o;             ///< [batch, local tokens, shard heads, v_dim]
  TensorView<float> lse;        ///< [batch, local tokens, shard heads, 1]; data == nullptr where not asked for
  TensorView<float> remainder;  ///< likewise
  TensorView<float> kept_mass;  ///< likewise
  LinearStates states;          ///< of the shard's linear heads, where asked for and on the rank that has them
};

ShardOutput make_shard_output(const RunPlan& plan, const ShardPlan& shard, int rank, const RunConfig& config,
                              MemoryLedger* ledger);

/// The datasets of one layer's output.
struct LayerOutput {
  DatasetInfo o;
  DatasetInfo lse;
  DatasetInfo remainder;
  DatasetInfo kept_mass;
  LinearStateOutput states;
};

/// Collective.
LayerOutput create_layer_output(ActivationWriter& writer, const LayerShape& layer, const RunConfig& config);

/// Collective.
void write_shard(ActivationWriter& writer, const LayerOutput& layer_output, const LayerShape& layer,
                 const ShardPlan& shard, int rank, const RunConfig& config, const ShardOutput& output);

}  // namespace ringscan
