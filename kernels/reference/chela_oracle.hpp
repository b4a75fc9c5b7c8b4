#pragma once
// The oracle of the CHELA block: the definitions of docs/mechanisms.md in float64 and plain loops. It shares no code
// with the kernels. In pieces, so that a check of a long sequence holds one head's channels at a time.

#include <cstdint>
#include <span>
#include <vector>

namespace ringscan::oracle {

/// Shaped as in the file: d channels, v channels of V and G.
struct ChelaParameters {
  std::int64_t channels = 0;
  std::int64_t v_channels = 0;
  std::int64_t num_heads = 1;
  double scale = 1.0;
  std::vector<double> short_conv;  ///< [channels, width]: tap j multiplies the input j tokens before
  std::vector<double> long_conv;   ///< likewise
  std::vector<double> kq, mq;      ///< [channels]
  std::vector<double> kk, mk;      ///< [channels]
  std::vector<double> w_v, w_g;    ///< [channels, v_channels]
  std::vector<double> w_o;         ///< [v_channels, channels]

  std::int64_t head_dim() const { return channels / num_heads; }
  std::int64_t v_dim() const { return v_channels / num_heads; }
};

/// out_t = sum_j taps[j] in_(t - j); `past` are the inputs before the first, as many as there are, nearest last. By
/// direct sums; where those would be more than 2^26, by a plain transform in float64.
std::vector<double> causal_convolution(std::span<const double> taps, std::span<const double> past,
                                       std::span<const double> in);
std::vector<double> causal_convolution_by_transform(std::span<const double> taps, std::span<const double> past,
                                                    std::span<const double> in);

double silu(double x);

/// What a channel's convolutions saw before the first token; empty: nothing.
struct ChelaPast {
  std::vector<double> short_inputs;
  std::vector<double> long_inputs;
};

/// Z of one channel, from x of that channel over the whole sequence.
std::vector<double> chela_z(const ChelaParameters& p, std::int64_t channel, std::span<const double> x,
                            const ChelaPast& past = {});

/// One head's linear attention, token after token.
class ChelaHead {
 public:
  /// `state` [head_dim, v_dim] at the start, or empty.
  ChelaHead(const ChelaParameters& p, std::int64_t head, std::vector<double> state = {});

  /// The next token: z [head_dim] of this head's channels, x [channels].
  void step(std::span<const double> z, std::span<const double> x);
  /// o [v_dim] of the token last taken.
  std::vector<double> output() const;
  const std::vector<double>& state() const { return state_; }

 private:
  const ChelaParameters& p_;
  std::int64_t head_;
  std::vector<double> state_;
  std::vector<double> z_;
};

/// (silu(z W_g) * o) W_o + x, [channels], for one token: x and z [channels], o [v_channels].
std::vector<double> chela_output(const ChelaParameters& p, std::span<const double> x, std::span<const double> z,
                                 std::span<const double> o);

/// The whole block of one batch item: x and y [tokens, channels].
std::vector<double> chela_block(const ChelaParameters& p, std::span<const double> x);

}  // namespace ringscan::oracle
