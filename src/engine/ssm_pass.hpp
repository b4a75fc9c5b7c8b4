#pragma once
// A selective scan over the ranks: each scans its own tokens, states go from rank to rank. Knows no files.

#include <cstdint>
#include <functional>

#include "comm/transport.hpp"
#include "core/buffer.hpp"
#include "kernels/ssm_kernels.hpp"
#include "sequence/sequence_layout.hpp"

namespace ringscan {

/// A rank's share. @pre the layout is contiguous; `inputs` and `y` hold this rank's tokens.
struct SsmPassTask {
  const SequenceLayout* layout = nullptr;
  ScanInputs inputs;
  TensorView<float> y;  ///< [batch, local tokens, 1, channels]; may be the memory of inputs.u
  /// [batch, channels, d_state]; read where token 0 is. nullptr: zeros.
  const float* initial_state = nullptr;
  /// [batch, channels, d_state]; becomes the state after the last token on the rank that holds it (alone). nullptr: not
  /// wanted.
  float* final_state = nullptr;
  bool reproducible = false;  ///< the same bits for any number of ranks
};

struct SsmPassResult {
  double compute_seconds = 0.0;  ///< in the kernels
  double exposed_seconds = 0.0;  ///< moving or waiting for states and halos
  std::size_t sent_bytes = 0;
  std::int64_t corrected = 0;  ///< (batch, token, channel) triples that a state from an earlier rank reached

  SsmPassResult& operator+=(const SsmPassResult& other);
};

/// Collective. Default: every rank scans at once from a zero state; an exclusive scan of the summaries over the ranks
/// (logarithmic) gives it the state it should have begun with, whose part of y is added where it has not yet decayed;
/// or, where kernels summarize first, that state comes before the only scan. `reproducible`: the state is handed from
/// rank to rank in blocks of channels, so that ranks work at once on different blocks; each token is then computed
/// once, from the very state a single rank would have. Memory: ssm_pass_bytes().
SsmPassResult run_ssm_pass(const SsmPassTask& task, Transport& transport, SsmKernels& kernels, MemoryLedger* ledger,
                           Heartbeat& heartbeat);

/// In buffers, beside what the task names.
std::size_t ssm_pass_bytes(std::int64_t batch, std::int64_t channels, std::int64_t d_state);

/// Channels whose state is handed on together under `reproducible`, of so many.
std::int64_t ssm_chained_channels(std::int64_t channels, const SequenceLayout& layout);

/// The rank that holds the last token.
int last_rank_of(const SequenceLayout& layout);

}  // namespace ringscan
