#pragma once
// What one rank computes for the selective scan and the Mamba block (docs/mechanisms.md). Nothing here knows of ranks.

#include <cstdint>
#include <memory>
#include <span>

#include "core/tensor_view.hpp"
#include "kernels/kernels.hpp"

namespace ringscan {

/// The inputs of a selective scan over a run of tokens and a run of channels. Channel i of the views reads group
/// (first_channel + i) / channels_per_group of b and c. Any element type but float64; computed in fp32.
struct ScanInputs {
  AnyView u;      ///< [batch, tokens, 1, channels]
  AnyView delta;  ///< like u, before bias and softplus
  AnyView z;      ///< like u; data == nullptr: no gate
  AnyView b;      ///< [batch, tokens, groups, d_state]
  AnyView c;      ///< like b
  std::int64_t first_channel = 0;
  std::int64_t channels_per_group = 1;
  const float* a = nullptr;           ///< [channels, d_state], negative
  const float* d = nullptr;           ///< [channels], or nullptr: 0
  const float* delta_bias = nullptr;  ///< [channels], or nullptr: 0

  std::int64_t batch() const { return u.shape[0]; }
  std::int64_t tokens() const { return u.shape[1]; }
  std::int64_t channels() const { return u.shape[3]; }
  std::int64_t d_state() const { return b.shape[3]; }

  /// The channels [first, first + count) of the same scan.
  ScanInputs slice(std::int64_t first, std::int64_t count) const;
};

/// What a run of tokens does to the state: h -> exp(A delta_sum) h + h_end.
struct ScanSummary {
  float* delta_sum = nullptr;  ///< [batch, channels]: sum over the tokens of delta, after softplus
  float* h = nullptr;          ///< [batch, channels, d_state]
};

/// A causal depthwise convolution: out_t = silu(bias + sum_k weight[k] in_(t - width + 1 + k)).
struct ConvTask {
  TensorView<const float> halo;   ///< [batch, width - 1, 1, channels]: the inputs before the first token
  TensorView<const float> in;     ///< [batch, tokens, 1, channels]
  TensorView<float> out;          ///< like in; may not overlap it
  const float* weight = nullptr;  ///< [channels, width]
  const float* bias = nullptr;    ///< [channels], or nullptr: 0
  std::int64_t width = 4;         ///< >= 1
};

/// out = in weight^T, row by row, or out += that.
struct ProjectTask {
  const float* in = nullptr;  ///< [rows, in_dim], rows in_stride apart
  std::int64_t in_stride = 0;
  const float* weight = nullptr;  ///< [out_dim, in_dim], rows weight_stride apart
  std::int64_t weight_stride = 0;
  float* out = nullptr;  ///< [rows, out_dim], rows out_stride apart
  std::int64_t out_stride = 0;
  std::int64_t rows = 0;
  std::int64_t in_dim = 0;
  std::int64_t out_dim = 0;
  bool adds = false;
};

/// Not thread-safe: one a rank.
class SsmKernels {
 public:
  virtual ~SsmKernels() = default;

  /// Where tasks best lie that the host reads and writes, though not while a function runs. Tasks may lie anywhere the
  /// host reaches, then at the price of a copy a call.
  virtual MemorySpace& memory() const { return host_memory(); }
  /// Where tasks best lie that only functions of the backend touch; the host copies in and out. A function all of whose
  /// pointers lie there may return before its work is through; what follows, copies of this memory too, comes after it.
  virtual MemorySpace& work_memory() const { return host_memory(); }
  /// All work that functions have left behind is through.
  virtual void settle(Heartbeat&) const {}
  /// Tokens that best go through project() and its neighbours together: theirs stay in a cache, or fill a device.
  virtual std::int64_t chunk_tokens() const { return 512; }
  /// Does what the first project() and the first long convolution would wait for: on a device, loads libraries. May run
  /// on another thread, while no function of this object does; its memories may be used meanwhile. @throws
  /// Error(kBadInput) where a library is missing.
  virtual void warm_up() const {}
  /// True where a scan without output costs little: then ranks take summaries first, and scan once from the right state
  /// instead of adding what was missing (add_incoming).
  virtual bool summarizes_first() const { return false; }

  ///   delta = softplus(delta + delta_bias);  h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t;
  ///   y_t = (sum_n C_t[n] h_t[n] + D u_t) silu(z_t)
  /// `state.h` is the state before the first token, and becomes the one after the last; `state.delta_sum` (where it is
  /// not nullptr) becomes the run's sum. On the CPU bits do not depend on how tokens and channels are cut into runs.
  /// `y` may be the memory of u; where kernels summarize first, y.data == nullptr: no output.
  virtual void scan(const ScanInputs& inputs, const ScanSummary& state, TensorView<float> y, Heartbeat& heartbeat) = 0;

  /// Makes up for a scan that began with a zero state where it should have begun with h_in [batch, channels, d_state]:
  ///   y_t += silu(z_t) sum_n C_t[n] exp(A[n] sum_{s<=t} delta_s) h_in[n]
  /// at least up to where that has decayed to nothing (under 2^-64 of h_in). Returns the (batch, token, channel)
  /// triples visited.
  virtual std::int64_t add_incoming(const ScanInputs& inputs, const float* h_in, TensorView<float> y,
                                    Heartbeat& heartbeat) = 0;

  /// `near` becomes the join of both: h = exp(A delta_sum_near) h_far + h_near. [batch, channels, d_state] as above.
  virtual void join(const float* a, std::int64_t batch, std::int64_t channels, std::int64_t d_state,
                    const ScanSummary& near, const ScanSummary& far) const = 0;

  /// `to` becomes `from` in its own element type, rounded to nearest; they may not overlap. @pre one shape.
  virtual void convert(const AnyView& from, const MutableAnyView& to) const = 0;

  virtual void conv1d(const ConvTask& task) const = 0;
  virtual void project(const ProjectTask& task) const = 0;

  /// Scratch beside the arguments, in bytes, for any number of tokens and channels.
  virtual std::size_t scratch_bytes(std::int64_t d_state) const = 0;
};

/// On the CPU: Highway with channels in the lanes, and oneDNN's sgemm on the calling thread.
std::unique_ptr<SsmKernels> make_cpu_ssm_kernels();

}  // namespace ringscan
