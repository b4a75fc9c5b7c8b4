#pragma once
// The oracle of the selective scan and the Mamba block: the definitions of docs/mechanisms.md in float64 and plain
// loops, token by token. It shares no code with the kernels.

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

namespace ringscan::oracle {

/// One batch item's scan over `channels` channels, all of which read one group of B and C.
class SelectiveScan {
 public:
  /// `a` [channels, d_state]; `d` and `delta_bias` [channels], or empty; `h` [channels, d_state] at the start, or
  /// empty.
  SelectiveScan(std::vector<double> a, std::vector<double> d, std::vector<double> delta_bias,
                std::vector<double> h = {});

  /// The next token: u, delta (before bias and softplus) and, where given, z [channels]; b and c [d_state]. Returns y
  /// [channels]; valid until the next call.
  std::span<const double> step(std::span<const double> u, std::span<const double> delta, std::span<const double> z,
                               std::span<const double> b, std::span<const double> c);

  const std::vector<double>& h() const { return h_; }

 private:
  std::vector<double> a_, d_, delta_bias_, h_, y_;
};

/// The Mamba block's parameters, shaped as in the reference module.
struct MambaParameters {
  std::int64_t d_model = 0;  ///< of the input
  std::int64_t d_inner = 0;
  std::int64_t d_state = 0;
  std::int64_t dt_rank = 0;
  std::int64_t d_out = 0;
  std::int64_t conv_width = 4;
  std::vector<double> in_proj;      ///< [2 d_inner, d_model]
  std::vector<double> conv_weight;  ///< [d_inner, conv_width]
  std::vector<double> conv_bias;    ///< [d_inner], or empty
  std::vector<double> x_proj;       ///< [dt_rank + 2 d_state, d_inner]
  std::vector<double> dt_proj;      ///< [d_inner, dt_rank]
  std::vector<double> dt_bias;      ///< [d_inner]
  std::vector<double> a_log;        ///< [d_inner, d_state]: A = -exp(A_log)
  std::vector<double> d;            ///< [d_inner]
  std::vector<double> out_proj;     ///< [d_out, d_inner]
};

/// One batch item's block.
class MambaBlock {
 public:
  /// `parameters` must outlive the block. `h` [d_inner, d_state] and `conv` [conv_width - 1, d_inner], the last inputs
  /// of the convolution, oldest first, are the state at the start; or empty.
  explicit MambaBlock(const MambaParameters& parameters, std::vector<double> h = {},
                      const std::vector<double>& conv = {});

  /// The next token's output [d_out]; valid until the next call.
  std::span<const double> step(std::span<const double> x);

  const std::vector<double>& h() const { return scan_.h(); }
  /// The last inputs of the convolution [conv_width - 1, d_inner], oldest first, for what comes next.
  std::vector<double> conv() const;

 private:
  const MambaParameters* parameters_;
  SelectiveScan scan_;
  std::deque<std::vector<double>> inputs_;  // of the convolution: the last conv_width
  std::vector<double> y_;
};

}  // namespace ringscan::oracle
