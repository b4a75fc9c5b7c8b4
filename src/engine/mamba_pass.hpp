#pragma once
// The Mamba block over the ranks, from the block's input to its output. Knows no files.

#include <cstdint>
#include <vector>

#include "engine/placed_parameter.hpp"
#include "engine/ssm_pass.hpp"

namespace ringscan {

struct MambaShape {
  std::int64_t d_model = 0;  ///< of the input
  std::int64_t d_inner = 0;
  std::int64_t d_state = 0;
  std::int64_t dt_rank = 0;
  std::int64_t d_out = 0;
  std::int64_t conv_width = 4;

  std::int64_t dt_b_c() const { return dt_rank + 2 * d_state; }
  friend bool operator==(const MambaShape&, const MambaShape&) = default;
};

/// The block's parameters, row-major, shaped as in the reference module.
struct MambaWeights {
  MambaShape shape;
  std::vector<float> in_proj;      ///< [2 d_inner, d_model]: x, then z
  std::vector<float> conv_weight;  ///< [d_inner, conv_width]
  std::vector<float> conv_bias;    ///< [d_inner], or empty
  std::vector<float> x_proj;       ///< [dt_rank + 2 d_state, d_inner]: dt, B, C
  std::vector<float> dt_proj;      ///< [d_inner, dt_rank]
  std::vector<float> dt_bias;      ///< [d_inner]
  std::vector<float> a;            ///< [d_inner, d_state]: -exp(A_log)
  std::vector<float> d;            ///< [d_inner]
  std::vector<float> out_proj;     ///< [d_out, d_inner]
};

/// The same where kernels work, for any number of passes. @pre the weights and the space outlive it.
struct PlacedMambaWeights {
  PlacedMambaWeights(const MambaWeights& weights, MemorySpace& space);

  MambaShape shape;
  PlacedParameter in_proj, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, a, d, out_proj;
};

/// What goes on behind the last token.
struct MambaState {
  float* h = nullptr;     ///< [batch, d_inner, d_state]
  float* conv = nullptr;  ///< [batch, conv_width - 1, d_inner]: the convolution's last inputs, oldest first
};

/// A rank's share. @pre the layout is contiguous.
struct MambaPassTask {
  const SequenceLayout* layout = nullptr;
  const PlacedMambaWeights* weights = nullptr;  ///< in the kernels' work_memory()
  /// [batch, local tokens, 1, d_model], of any type but float64, best in the kernels' memory().
  AnyView x;
  TensorView<float> out;  ///< [batch, local tokens, 1, d_out], dense, best in their work_memory()
  MambaState initial;     ///< read where token 0 is; nullptr: zeros
  MambaState final;       ///< written where the last token is; nullptr: not wanted
  /// Channels of d_inner that are worked on at once. One block takes the least work; sums over channels are rounded
  /// block by block, so that bits depend on it.
  std::int64_t block_channels = 0;
  bool reproducible = false;
};

/// in_proj -> (x, z); x = silu(causal depthwise convolution of x + bias), its halo from the ranks before; x_proj ->
/// (dt, B, C); dt_proj; selective scan; gate; out_proj. Collective. Memory: mamba_pass_bytes().
SsmPassResult run_mamba_pass(const MambaPassTask& task, Transport& transport, SsmKernels& kernels, MemoryLedger* ledger,
                             Heartbeat& heartbeat);

/// In buffers, beside what the task names, on a rank with that many tokens whose kernels take such chunks.
std::size_t mamba_pass_bytes(const MambaShape& shape, std::int64_t batch, std::int64_t tokens,
                             std::int64_t block_channels, std::int64_t chunk_tokens);

}  // namespace ringscan
