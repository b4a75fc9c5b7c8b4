#pragma once
// One block mechanism of one layer, file to file.

#include <functional>

#include "comm/transport.hpp"
#include "core/buffer.hpp"
#include "engine/block_plan.hpp"
#include "io/activation_file.hpp"
#include "kernels/ssm_kernels.hpp"

namespace ringscan {

/// What a block job works with.
struct BlockContext {
  const RunConfig* config = nullptr;
  Transport* transport = nullptr;
  ActivationReader* reader = nullptr;
  ActivationReader* initial_state = nullptr;  ///< of --initial-state; nullptr: none
  ActivationWriter* writer = nullptr;
  SsmKernels* kernels = nullptr;
  const ChelaBackend* chela = nullptr;
  MemoryLedger* ledger = nullptr;
  std::function<void(double)> on_progress;  ///< told the share that is done
};

/// Where the output of a block goes.
struct BlockOutput {
  DatasetInfo y;     ///< ssm/y or mamba/y [batch, seq, channels]; in a hybrid the layer's o
  DatasetInfo h;     ///< state/ssm/h, state/mamba/h [batch, channels, d_state]
  DatasetInfo conv;  ///< state/mamba/conv [batch, conv_width - 1, d_inner]
  ChelaOutput chela;
};

/// Collective. `o` is the layer's, where it has one.
BlockOutput create_block_output(ActivationWriter& writer, const BlockShape& shape, const RunConfig& config,
                                const DatasetInfo* o);

struct BlockFigures {
  SsmPassResult pass;
  double read_seconds = 0.0;   ///< waiting for the file
  double write_seconds = 0.0;  ///< likewise
};

/// Collective. Reads, computes and writes, one run of channels after the other.
/// @throws Error(kBadInput): NaN or infinity in the input, an A that is not negative, an initial state that does not
/// fit.
BlockFigures run_block(const BlockPlan& plan, const BlockOutput& output, const BlockContext& context);

}  // namespace ringscan
