#pragma once
// The inner loops of the selective scan, compiled once for each instruction set. Channels stand in the lanes: arrays
// are [token][stride] or [state][stride] with the channels of a block along the stride, a multiple of kSsmLanes; lanes
// past the last channel hold zeros.

#include <cstddef>
#include <cstdint>

namespace ringscan::cpu {

inline constexpr std::size_t kSsmLanes = 16;      ///< floats in the widest vector
inline constexpr std::size_t kSsmChannels = 512;  ///< stride: channels of a block at most
inline constexpr std::size_t kSsmTokens = 64;     ///< tokens of a block at most

/// Rows of float32 by token, `stride` apart, channels side by side.
struct ScanRows {
  const float* data = nullptr;
  std::size_t stride = 0;
};

/// Sums of delta and what rounding took from them, so that a million small steps add up right.
struct DeltaSums {
  float* high = nullptr;  ///< [kSsmChannels]
  float* low = nullptr;
};

/// A block of tokens and channels of one group.
struct ScanBlock {
  std::size_t tokens = 0;
  std::size_t channels = 0;  ///< rounded up to kSsmLanes
  std::size_t d_state = 0;
  std::size_t last_token = 0;  ///< the last one, counted from this block's first, whose rows may be fetched ahead
  ScanRows u;
  ScanRows delta;               ///< before bias and softplus
  ScanRows z;                   ///< data == nullptr: no gate
  const float* b = nullptr;     ///< [token][d_state]
  const float* c = nullptr;     ///< [token][d_state]
  const float* d = nullptr;     ///< [kSsmChannels]
  const float* bias = nullptr;  ///< [kSsmChannels]
  /// [channels / kSsmLanes][d_state][2][kSsmLanes]: A log2 e and h, side by side.
  float* states = nullptr;
  float* y = nullptr;
  std::size_t y_stride = 0;
};

struct SsmOps {
  /// The states go from before the block to behind it; y = (sum_n c[n] h[n] + d u) silu(z). The sums go on.
  void (*scan)(const ScanBlock& block, const DeltaSums& sums);
  /// y += silu(z) sum_n c[n] 2^(a[n] (sums + delta of the block so far)) h[n]; the sums go on, h stays. False, and
  /// nothing done, where every channel's slowest state (a_slowest: the A log2 e nearest to 0) has decayed under 2^-64.
  bool (*incoming)(const ScanBlock& block, const float* a_slowest, const DeltaSums& sums);
  /// out[i] = silu(bias[i] + sum_k weight[k][i] rows[k][i]); weight [width][channels].
  void (*conv_row)(const float* const* rows, const float* weight, const float* bias, std::size_t width,
                   std::size_t channels, float* out);
  /// Repeats the scan's decay factor in registers; returns how many were computed.
  double (*run_decays)(std::int64_t rounds, float* sink);
};

const SsmOps& ssm_ops();

}  // namespace ringscan::cpu
