#pragma once
// Linear attention on Hopper: what a block holds in shared memory, and which tokens of which head it walks. The warp that
// loads and the warpgroups that compute meet in it.

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/linear_params.hpp"
#include "kernels/cuda/pipeline_sm90.cuh"

namespace ringscan::cuda {

constexpr int kLinearChunk = 64;
constexpr int kLinearTileBytes = kLinearChunk * 128;  ///< 64 rows of 64 columns

struct LinearMaps {
  CUtensorMap q, k, v, o;  ///< boxes of 64 rows by 64 columns
};

/// One chunk's decays; c is the sum of the log decays from the chunk's first token on.
struct alignas(16) ChunkDecays {
  float c_log2[kLinearChunk];      ///< c log2(e)
  float from_begin[kLinearChunk];  ///< e^c
  float to_end[kLinearChunk];      ///< e^(c_end - c), and to the segment's end in a summary; 0 behind the run
  float change;                    ///< e^c_end - 1
  float total;                     ///< log decay from the chunk's begin to the segment's end; of a summary
  bool is_last;
};

template <int kDim_, int kGroups_, bool kOutput_>
struct LinearLayout {
  static constexpr int kDim = kDim_;        ///< of q and k, filled with zeros
  static constexpr int kGroups = kGroups_;  ///< warpgroups of 64 columns of v
  static constexpr bool kOutput = kOutput_;
  static constexpr int kThreads = 128 * kGroups + 32;
  static constexpr int kBlocks = kGroups == 1 ? 2 : 1;  ///< a multiprocessor
  static constexpr int kKeyTiles = kDim / 64;
  static constexpr int kStageBytes = ((kOutput ? 2 : 1) * kKeyTiles + kGroups) * kLinearTileBytes;
  static constexpr int kOwnBytes = kOutput ? kGroups * (kKeyTiles + 1) * kLinearTileBytes : 0;
  static constexpr int kFit = (220 * 1024 / kBlocks - kOwnBytes) / kStageBytes;
  static constexpr int kStages = kFit < 6 ? kFit : 6;
  static_assert(kStages >= 2);

  struct Shared {
    // Tiles begin on multiples of 1024 bytes, as the swizzle wants.
    std::uint8_t q[kOutput ? kStages : 1][kOutput ? kKeyTiles : 0][kLinearTileBytes];
    std::uint8_t k[kStages][kKeyTiles][kLinearTileBytes];
    std::uint8_t v[kStages][kGroups][kLinearTileBytes];
    std::uint8_t s[kOutput ? kGroups : 0][kKeyTiles][kLinearTileBytes];  ///< rows of S^T
    std::uint8_t o[kOutput ? kGroups : 0][kLinearTileBytes];
    ChunkDecays decays[kStages];
    RingBarriers<kStages> ring;
  };
};

/// Where a block works.
struct LinearPlace {
  std::int64_t segment, stream, batch, begin, end;
  int slot;

  __device__ explicit LinearPlace(const LinearDeviceParams& p) {
    segment = blockIdx.x % p.segments.count;
    stream = blockIdx.x / p.segments.count;
    slot = static_cast<int>(stream % p.num_slots);
    batch = stream / p.num_slots;
    begin = segment * p.segments.tokens;
    end = min(p.tokens, begin + p.segments.tokens);
  }
  __device__ std::int64_t num_chunks() const { return (end - begin + kLinearChunk - 1) / kLinearChunk; }
};

}  // namespace ringscan::cuda
