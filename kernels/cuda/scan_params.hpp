#pragma once
// What the host hands to the scan kernels.

#include <cstdint>

#include "kernels/cuda/portable_params.hpp"

namespace ringscan::cuda {

using portable::rows_in;
using portable::RowsIn;

inline constexpr int kScanThreads = 256;
inline constexpr int kScanTokens = 8;  ///< of a tile
inline constexpr int kScanOwn = 2;     ///< channels of a thread, so that it reads B and C once for both

struct ScanParams {
  RowsIn u, delta, z, b, c;  ///< z.data == nullptr: no gate
  void* y = nullptr;         ///< nullptr: the summary alone
  ElementType y_type = ElementType::kFloat32;
  RowStrides y_strides;
  const float* a = nullptr;
  const float* d = nullptr;
  const float* delta_bias = nullptr;
  const float* h_in = nullptr;
  float* h_out = nullptr;
  float* delta_parts = nullptr;  ///< [batch, segments, parts, channels]; nullptr: not wanted
  std::int64_t tokens = 0;
  std::int64_t segment_tokens = 0;  ///< a multiple of kScanTokens
  std::int64_t num_segments = 0;
  std::int64_t channels = 0;
  std::int64_t first_channel = 0;
  std::int64_t channels_per_group = 1;
  std::int64_t first_group = 0;
  std::int64_t blocks_per_group = 0;
  std::int64_t num_groups = 0;  ///< that the channels touch
  std::int64_t batch = 0;
  int d_state = 0;
};

/// Lanes of a thread's channels, four states of each, for a d_state; and channels of a block.
constexpr int scan_lanes(std::int64_t d_state) {
  return d_state <= 16 ? 4 : d_state <= 64 ? 16 : 32;
}
constexpr int scan_channels(int lanes) {
  return kScanOwn * kScanThreads / lanes;
}
/// Threads of a block that stage one channel, each of which sums its own deltas.
constexpr int scan_parts(int lanes) {
  return lanes / kScanOwn < kScanTokens ? lanes / kScanOwn : kScanTokens;
}

// By lanes a channel; each precision is compiled on its own.
void launch_scan_fast(const ScanParams& params, cudaStream_t stream);
void launch_scan_precise(const ScanParams& params, cudaStream_t stream);

}  // namespace ringscan::cuda
