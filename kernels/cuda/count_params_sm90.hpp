#pragma once
// What the host hands to the counting kernels of exact top-k.

#include "core/element_type.hpp"
#include "kernels/cuda/attend_params_sm90.hpp"
#include "kernels/cuda/search.hpp"

namespace ringscan::cuda {

struct CountParams {
  AttendParams attend;  ///< of `first` and `sum`, those of all weights; no out, no o
  SearchRow* rows = nullptr;
  std::uint32_t* words = nullptr;       ///< [row, kListWords]
  const std::uint32_t* open = nullptr;  ///< flags
  bool takes_all = false;               ///< rows that are not searched any more, too: their weights are added
  bool sees_all = false;                ///< rows take keys that they do not see (a sample)
  std::int64_t first_query = 0;         ///< global
  std::int64_t key_step = 1;            ///< positions from one key to the next
};

struct CountMaps {
  CUtensorMap q;
  CUtensorMap k;
};

/// Keys that a first guess is made from.
inline constexpr int kSampledKeys = 256;

/// As TileShape, without values, and with little ahead, so with room for queues: the deeper they are, the less often
/// they are emptied, which holds up the three other warps that multiply together. Keys a tile are the same.
template <int kHeadDim_, int kConsumers_>
struct ScoreShape {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kConsumers = kConsumers_;
  static constexpr int kRows = 64 * kConsumers;
  static constexpr int kKeys = TileShape<kHeadDim>::kKeys;
  static constexpr int kStages = kHeadDim <= 64 ? 3 : 2;
  static constexpr int kQueryBuffers = 1;
  static constexpr int kQueryBytes = kRows * kHeadDim * 2;
  static constexpr int kKeyBytes = kKeys * kHeadDim * 2;
  static constexpr int kQueueDepth = kHeadDim <= 64 ? 48 : 36;  ///< keys of a lane's row
  static constexpr int kLoaderRegisters = kConsumers == 2 ? 40 : 32;
  static constexpr int kConsumerRegisters = kConsumers == 2 ? 232 : 160;
  static constexpr int kThreads = 128 * (kConsumers + 1);
};

/// A guess holds its scores in registers.
template <int kHeadDim>
using SampleShape = ScoreShape<kHeadDim, 2>;
/// Counting waits for its own comparisons: three warps of a scheduler have something to do more often than two.
constexpr int count_warpgroups(std::int64_t head_dim) {
  return head_dim <= 128 ? 3 : 2;
}
template <int kHeadDim>
using CountShape = ScoreShape<kHeadDim, count_warpgroups(kHeadDim)>;

void launch_count(const CountParams& params, const CountMaps& maps, ElementType type, bool adds, cudaStream_t stream);
void launch_guess(const CountParams& params, const CountMaps& maps, ElementType type, cudaStream_t stream);

}  // namespace ringscan::cuda
