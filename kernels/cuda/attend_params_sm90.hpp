#pragma once
// What the host hands to the attend kernels.

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/divisor.hpp"

namespace ringscan::cuda {

inline constexpr int kMaxSlots = 256;

/// Strides of [batch, row, head] in elements.
struct RowStrides {
  std::int64_t batch = 0;
  std::int64_t row = 0;
  std::int64_t head = 0;
};

template <typename View>
RowStrides row_strides(const View& view) {
  return {view.strides[0], view.strides[1], view.strides[2]};
}

struct SearchRow;

/// Tasks with rows that a launch could not do, for the next one to do again.
struct Overflows {
  std::uint32_t* counts = nullptr;      ///< how many tasks there are, and how many of them were taken
  std::uint32_t* warpgroups = nullptr;  ///< [num_tasks()]: a bit for each whose rows are left
  std::uint32_t* tasks = nullptr;       ///< [num_tasks()]: the first counts[0], in any order
};

struct AttendParams {
  std::int64_t num_queries = 0;
  std::int64_t num_keys = 0;
  std::int64_t loadable_keys = 0;    ///< num_keys, or as many as a tile has where keys were padded to one
  std::int64_t query_minus_key = 0;  ///< query_run.begin - key_run.begin
  std::int64_t min_delta = 0;
  std::int64_t max_delta = 0;
  const std::int64_t* max_deltas = nullptr;  ///< [num_queries], or nullptr: max_delta alone
  float scale_log2 = 0.0f;                   ///< scale * log2(e)
  float log2_epsilon = 0.0f;                 ///< rows under this are done; -inf: never

  const SearchRow* search = nullptr;  ///< exact top-k, finished: [batch, slot, row]
  std::int64_t first_key = 0;         ///< global, of the run

  // Carried partials, [batch, slot, row] and [batch, slot, row, head_dim].
  float* out = nullptr;
  float* first = nullptr;
  float* sum = nullptr;
  bool starts = true;
  bool finishes = false;  ///< rows of whole items where they are, those of cut ones when their parts are joined

  void* o = nullptr;
  RowStrides o_strides;
  float* statistic = nullptr;
  RowStrides statistic_strides;

  int head_dim = 0;
  int num_slots = 0;
  std::uint32_t num_query_tiles = 0;
  std::uint32_t num_items = 0;  ///< query tiles of all slots and batches
  std::uint32_t num_whole = 0;  ///< of these; the others, at the end, are cut along their keys
  std::uint32_t num_parts = 1;  ///< of each of the others, near first
  // Partials of the parts behind the first, which goes with the whole items: [cut item, part - 1, row of the tile] and
  // [.., head_dim].
  float* part_out = nullptr;
  float* part_first = nullptr;
  float* part_sum = nullptr;
  // (batch, slot) pairs worked on together, so that their keys fit in L2; in the last section those that are left.
  Divisor items_a_section;
  Divisor streams_a_section;
  Divisor streams_in_last;
  Divisor slots;  ///< num_slots
  std::uint32_t* next_item = nullptr;
  std::uint32_t* tiles_loaded = nullptr;
  std::uint16_t q_head[kMaxSlots];
  std::uint16_t kv_head[kMaxSlots];
  Overflows overflows;  ///< of a launch that may have any, and of that behind it, which does these alone

  /// What the blocks take one by one: items, of those that are cut each part.
  RINGSCAN_HOST_DEVICE std::uint32_t num_tasks() const { return num_whole + (num_items - num_whole) * num_parts; }
};

struct TensorMaps {
  CUtensorMap q;  ///< [dim, row, head, batch]
  CUtensorMap k;  ///< [dim, run of keys, key, head, batch], see permuted_key_map()
  CUtensorMap v;
};

/// Sizes of one member of the kernel family, by the head_dim it is built for (smaller ones are filled with zeros).
template <int kHeadDim_>
struct TileShape {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kConsumers = kHeadDim <= 64 ? 3 : 2;  ///< warpgroups of 64 query rows
  static constexpr int kRows = 64 * kConsumers;              ///< query rows a tile
  static constexpr int kKeys = kHeadDim <= 128 ? 128 : 64;   ///< keys a tile
  static constexpr int kStages = kHeadDim <= 64 ? 3 : 2;     ///< tiles of K, and of V, in flight
  static constexpr int kQueryBuffers = kHeadDim <= 128 ? 2 : 1;
  static constexpr int kQueryBytes = kRows * kHeadDim * 2;
  static constexpr int kKeyBytes = kKeys * kHeadDim * 2;
  // Registers a thread, as many as the block has; the loader needs few.
  static constexpr int kLoaderRegisters = kConsumers == 2 ? 40 : 32;
  static constexpr int kConsumerRegisters = kConsumers == 2 ? 232 : 160;
  static constexpr int kThreads = 128 * (kConsumers + 1);
};

}  // namespace ringscan::cuda
