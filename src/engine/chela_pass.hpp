#pragma once
// The CHELA block over the ranks, from the block's input to its output. Knows no files. The reading of the paper is
// ours (docs/mechanisms.md).

#include <cstdint>
#include <vector>

#include "comm/transport.hpp"
#include "core/buffer.hpp"
#include "core/tensor_view.hpp"
#include "engine/placed_parameter.hpp"
#include "kernels/chela_kernels.hpp"
#include "kernels/linear_kernels.hpp"
#include "kernels/ssm_kernels.hpp"
#include "sequence/sequence_layout.hpp"

namespace ringscan {

struct ChelaShape {
  std::int64_t channels = 0;    ///< of x, z and y
  std::int64_t v_channels = 0;  ///< of V, O and G
  std::int64_t num_heads = 1;   ///< divides both
  std::int64_t short_width = 1;
  std::int64_t long_width = 1;

  std::int64_t head_dim() const { return channels / num_heads; }
  std::int64_t v_dim() const { return v_channels / num_heads; }
  friend bool operator==(const ChelaShape&, const ChelaShape&) = default;
};

/// The block's parameters, row-major. Matrices lie transposed, as the projections take them.
struct ChelaWeights {
  ChelaShape shape;
  std::vector<float> short_conv;  ///< [channels, short_width]: tap j multiplies the input j tokens before
  std::vector<float> long_conv;   ///< [channels, long_width], likewise
  std::vector<float> kq, mq;      ///< [channels]: Q = kq Z + mq
  std::vector<float> kk, mk;      ///< [channels]: K = kk Z + mk
  std::vector<float> w_v;         ///< [v_channels, channels]
  std::vector<float> w_g;         ///< [v_channels, channels]
  std::vector<float> w_o;         ///< [channels, v_channels]
};

/// The same where kernels work, for any number of passes. @pre the weights and the space outlive it.
struct PlacedChelaWeights {
  PlacedChelaWeights(const ChelaWeights& weights, MemorySpace& space);

  ChelaShape shape;
  std::vector<float> oldest_first;  ///< short_conv's taps the other way round
  PlacedParameter short_conv;       ///< oldest_first, as SsmKernels::conv1d() takes taps
  PlacedParameter long_conv, kq, mq, kk, mk, w_v, w_g, w_o;
};

/// What went before token 0. Empty views and spans: nothing.
struct ChelaPast {
  TensorView<const float> short_inputs;  ///< [batch, short_width - 1, 1, channels] of x, oldest first, on every rank
  /// [batch, wanted_past() of the long kernel, 1, channels] of silu(K_s * x)
  TensorView<const float> long_inputs;
  const double* state = nullptr;  ///< [batch, heads, head_dim, v_dim], on every rank
};

/// What a later run needs; data == nullptr: not wanted.
struct ChelaFuture {
  TensorView<float> short_inputs;  ///< [batch, short_width - 1, 1, channels]; written where the last token is
  TensorView<float> long_inputs;   ///< [batch, kept_inputs() of this rank, 1, channels]; written on every rank
  double* state = nullptr;         ///< [batch, heads, head_dim, v_dim]; written where the last token is
};

/// A rank's share. @pre the layout is contiguous.
struct ChelaPassTask {
  const SequenceLayout* layout = nullptr;
  const PlacedChelaWeights* weights = nullptr;  ///< in the kernels' work_memory()
  double scale = 1.0;                           ///< on Q
  AnyView x;            ///< [batch, local tokens, 1, channels], of any type but float64, best in the kernels' memory()
  TensorView<float> y;  ///< like x, dense, best in their work_memory()
  ChelaPast past;
  ChelaFuture future;
  bool reproducible = false;
};

struct ChelaPassResult {
  double compute_seconds = 0.0;
  double exposed_seconds = 0.0;  ///< moving or waiting for halos, channels and states
  std::size_t sent_bytes = 0;
};

/// What one rank computes with.
struct ChelaBackend {
  const ChelaKernels& chela;
  const SsmKernels& ssm;  ///< short convolution and projections; its work_memory() is that of both others
  const LinearKernels& linear;
};

///   Z = K_l * silu(K_s * x);  Q = kq Z + mq;  K = kk Z + mk;  V = silu(x W_v);  O = linear attention(Q, K, V);
///   G = silu(Z W_g);  y = (G * O) W_o + x
/// Collective. K_s by halo, K_l as long_conv_pass.hpp says, the linear attention by a scan of states.
/// Memory: chela_pass_bytes().
ChelaPassResult run_chela_pass(const ChelaPassTask& task, Transport& transport, const ChelaBackend& backend,
                               MemoryLedger* ledger, Heartbeat& heartbeat);

/// In buffers and scratch, beside what the task names, on any rank.
std::size_t chela_pass_bytes(const ChelaShape& shape, const SequenceLayout& layout, std::int64_t batch,
                             bool reproducible, const ChelaBackend& backend);

/// The tokens of `rank` among the last width - 1 of the sequence.
TokenRun kept_inputs(const SequenceLayout& layout, std::int64_t width, int rank);

}  // namespace ringscan
