#pragma once
// The inner loops of the selective scan, compiled once for each instruction set. Channels stand in the lanes: arrays
// are [token][stride] or [state][stride] with the channels of a block along the stride, a multiple of kSsmLanes; lanes
// past the last channel hold zeros.

#include <cstddef>
#include <cstdint>

namespace ringscan::cpu {

inline constexpr std::size_t kSsmLanes = 16;      ///< floats in the widest vector
inline constexpr std::size_t kSsmChannels = 256;  ///< stride: channels of a block at most
inline constexpr std::size_t kSsmTokens = 64;     ///< tokens of a block at most

/// A block of tokens and channels of one group, as float32.
struct ScanBlock {
  std::size_t tokens = 0;
  std::size_t channels = 0;  ///< rounded up to kSsmLanes
  std::size_t d_state = 0;
  const float* u = nullptr;       ///< [token][kSsmChannels]
  const float* delta = nullptr;   ///< [token][kSsmChannels], after softplus
  const float* b = nullptr;       ///< [token][d_state]
  const float* c = nullptr;       ///< [token][d_state]
  const float* a_log2 = nullptr;  ///< [d_state][kSsmChannels]: A log2 e
  const float* d = nullptr;       ///< [kSsmChannels]
  /// [d_state][2][kSsmLanes]: A and h of the lanes in hand side by side. Walked in place, a stride that is a power of
  /// two would make each load wait for stores whose addresses end alike.
  float* lanes = nullptr;
  float* y = nullptr;  ///< [token][kSsmChannels]
};

/// Sums of delta and what rounding took from them, so that a million small steps add up right.
struct DeltaSums {
  float* high = nullptr;  ///< [kSsmChannels]
  float* low = nullptr;
};

struct SsmOps {
  /// delta = softplus(delta + bias).
  void (*softplus)(float* delta, const float* bias, std::size_t tokens, std::size_t channels);
  void (*add_up)(const float* delta, std::size_t tokens, std::size_t channels, const DeltaSums& sums);
  /// `h` [d_state][kSsmChannels] goes from before the block to behind it.
  void (*scan)(const ScanBlock& block, float* h);
  /// y[t] = sum_n c_t[n] 2^(a_log2[n] (sums + delta of the block up to t)) h_in[n]; the sums go on. False, and nothing
  /// done, where every channel's slowest state (a_slowest) has decayed under 2^-64.
  bool (*incoming)(const ScanBlock& block, const float* h_in, const float* a_slowest, const DeltaSums& sums);
  /// y *= silu(z).
  void (*gate)(float* y, const float* z, std::size_t tokens, std::size_t channels);
  /// out[i] = silu(bias[i] + sum_k weight[k][i] rows[k][i]); weight [width][channels].
  void (*conv_row)(const float* const* rows, const float* weight, const float* bias, std::size_t width,
                   std::size_t channels, float* out);
  /// Repeats the scan's decay factor in registers; returns how many were computed.
  double (*run_decays)(std::int64_t rounds, float* sink);
};

const SsmOps& ssm_ops();

}  // namespace ringscan::cpu
