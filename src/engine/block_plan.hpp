#pragma once
// Mechanisms that read inputs of their own instead of q, k, v: what a job does for them, decided before data moves.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/element_type.hpp"
#include "engine/chela_layer.hpp"
#include "engine/mamba_pass.hpp"
#include "engine/run_config.hpp"
#include "io/activation_file.hpp"
#include "mechanism/mechanism.hpp"
#include "sequence/sequence_layout.hpp"

namespace ringscan {

/// The shapes of one such mechanism in one layer.
struct BlockShape {
  std::string layer;
  BlockMechanism mechanism;
  std::vector<int> heads;      ///< of the layer's `o`, ascending; empty: the whole layer, with an output of its own
  std::int64_t num_heads = 0;  ///< of `o`, in a hybrid
  std::int64_t v_dim = 0;      ///< in a hybrid
  std::int64_t batch = 0;
  std::int64_t seq_len = 0;
  std::int64_t channels = 0;                       ///< of the output
  ElementType input_type = ElementType::kFloat32;  ///< of ssm/u, mamba/x or chela/x, in the file
  ElementType output_type = ElementType::kFloat32;
  // ssm
  std::int64_t groups = 1;
  std::int64_t d_state = 0;
  bool has_z = false;
  std::size_t channel_bytes = 0;  ///< u, delta and z of one token and channel, in memory
  std::size_t token_bytes = 0;    ///< what a token takes whatever the channels: B and C; mamba: x
  std::size_t staging_bytes = 0;  ///< of an element that is read, while it is converted
  // mamba
  MambaShape mamba;
  // chela
  ChelaLayer chela;

  std::string label() const;
};

/// One of them, over all ranks.
struct BlockPlan {
  BlockShape shape;
  SequenceLayout layout;
  /// ssm: channels that are read, computed and written at once; mamba: inner channels that are computed at once; chela:
  /// all.
  std::int64_t block_channels = 0;
  /// Of what a rank hands on to later ones, all channels of a block (chela: all heads).
  std::size_t state_bytes = 0;
  /// Useful: 8 a token, channel and state, and 2 a weight of a projection; exponentials count as one. chela:
  /// projections, linear attention, and of its long convolution the fewer of 2 a tap and 5 L log2 L a channel, L twice
  /// the sequence.
  double flops = 0.0;
};

struct RunPlan;

/// @throws Error(kBadInput) naming file, dataset, what was found and what is wanted.
BlockShape inspect_block(const ActivationReader& reader, const std::string& layer, const BlockAssignment& assignment,
                         const RunConfig& config);

/// Adds one to the plan, and what it takes to the plan's memory. The largest blocks of channels that fit (under
/// `reproducible`, for mamba, fixed ones). @throws Error(kBadInput) where none fits.
void plan_block(const RunConfig& config, const BlockShape& shape, RunPlan& plan);

/// Likewise all of the configuration, in every layer.
void plan_blocks(const RunConfig& config, const ActivationReader& reader, RunPlan& plan);

/// Of all tokens and channels, in the file.
struct BlockBytes {
  double read = 0.0;
  double written = 0.0;
};
BlockBytes file_bytes(const BlockShape& shape);

/// The factor on CHELA's queries.
double chela_scale(const RunConfig& config, const ChelaLayer& layer);

/// One line for people.
std::string describe(const BlockPlan& block);

}  // namespace ringscan
