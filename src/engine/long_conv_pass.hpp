#pragma once
// A causal depthwise convolution over the ranks, with kernels up to the whole sequence. Knows no files.

#include <cstdint>
#include <vector>

#include "comm/transport.hpp"
#include "core/buffer.hpp"
#include "core/tensor_view.hpp"
#include "kernels/chela_kernels.hpp"
#include "sequence/sequence_layout.hpp"

namespace ringscan {

enum class LongConvMethod {
  kDirect,    ///< short kernels: halo from the ranks before, a multiply-add a tap
  kHalo,      ///< kernels no longer than a shard: halo from the ranks before, FFT of the rank's own tokens
  kAllToAll,  ///< to whole sequences of single channels, FFT, and back
};

/// Direct up to 64 taps. Above, the halo where every rank with tokens has as many as it is wide, and it is less than
/// what two all-to-alls move; under `reproducible` always the all-to-all, whose transforms do not depend on where
/// shards begin.
LongConvMethod choose_long_conv(const SequenceLayout& layout, std::int64_t width, bool reproducible);

/// A rank's share. @pre the layout is contiguous.
struct LongConvPassTask {
  const SequenceLayout* layout = nullptr;
  /// [batch, local tokens, 1, channels], dense, in the kernels' work_memory(): the inputs, which become the outputs.
  TensorView<float> values;
  const float* taps = nullptr;  ///< [channels, width], best there too: tap j multiplies the input j tokens before
  std::int64_t width = 1;
  /// [batch, wanted_past().size(), 1, channels]: inputs before token 0, oldest first, the host's. data == nullptr:
  /// zeros.
  TensorView<const float> past;
  bool reproducible = false;
};

/// Of the width - 1 inputs before token 0 those that `rank` must have, as [0, width - 1): all of them, or under the
/// all-to-all its share.
TokenRun wanted_past(const SequenceLayout& layout, std::int64_t width, bool reproducible, int rank);

struct LongConvResult {
  double compute_seconds = 0.0;
  double exposed_seconds = 0.0;  ///< moving and waiting
  std::size_t sent_bytes = 0;
};

/// Collective. Under the all-to-all a rank holds blocks of channels of about 32 MiB, at least one whole channel. The
/// halo of kHalo lies in the kernels' work_memory() where the transport carries that, else in the host's.
LongConvResult run_long_conv_pass(const LongConvPassTask& task, Transport& transport, const ChelaKernels& kernels,
                                  MemoryLedger* ledger);

/// Channels that go through the all-to-all together.
std::int64_t long_conv_block_channels(const SequenceLayout& layout, std::int64_t channels, std::int64_t width);

/// At most, in buffers and scratch, beside what the task names.
std::size_t long_conv_pass_bytes(const SequenceLayout& layout, std::int64_t batch, std::int64_t channels,
                                 std::int64_t width, bool reproducible, const ChelaKernels& kernels);

}  // namespace ringscan
