#pragma once
// Linear attention: the decays of a chunk of 64 tokens, by one warp, two tokens a lane.

#include "kernels/cuda/linear_params.hpp"

namespace ringscan::cuda {

/// Sums of log decays from the chunk's first token on.
struct ChunkSums {
  float to[2];  ///< each of the lane's tokens
  float all;    ///< the chunk's last
};

/// `log_decay`: those of the lane's tokens, as they were read. By all lanes of a warp.
__device__ inline ChunkSums sum_log_decays(const float (&log_decay)[2], int lane) {
  const float first = least_log_decay(log_decay[0]);
  float c = first + least_log_decay(log_decay[1]);
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const float other = __shfl_up_sync(0xFFFFFFFFu, c, static_cast<unsigned>(distance));
    if (lane >= distance) c += other;
  }
  const float last = __shfl_sync(0xFFFFFFFFu, c, 31);
  const float before = __shfl_up_sync(0xFFFFFFFFu, c, 1);
  return {{(lane == 0 ? 0.0f : before) + first, c}, last};
}

}  // namespace ringscan::cuda
