#pragma once
// Scores of exact top-k's search on Hopper, from the same matrix instructions in the same order as the attend kernels', so
// that both see the same bits. A persistent grid; one warp loads, two or three warpgroups have 64 query rows each.

#include "kernels/cuda/count_params_sm90.hpp"
#include "kernels/cuda/search.hpp"
#include "kernels/cuda/wgmma_sm90.cuh"
#include "kernels/cuda/work_item_sm90.cuh"

namespace ringscan::cuda {

template <typename Shape>
struct CountTiles {
  alignas(1024) std::uint8_t q[Shape::kQueryBuffers][Shape::kQueryBytes];
  alignas(1024) std::uint8_t k[Shape::kStages][Shape::kKeyBytes];
  RingBarriers<Shape::kQueryBuffers> q_ring;
  RingBarriers<Shape::kStages> k_ring;
  std::uint32_t item[Shape::kQueryBuffers];  ///< the work item whose queries these are; num_items: no more
  float queued[Shape::kQueueDepth][2][128 * Shape::kConsumers];  ///< of each consumer thread, for its two rows
};

/// floor(a / b), b > 0.
__device__ inline std::int64_t floor_quotient(std::int64_t a, std::int64_t b) {
  if (b == 1) return a;
  return a >= 0 ? a / b : -((b - 1 - a) / b);
}
/// The first and last key that a row, local to its run, sees; keys lie key_step positions apart.
__device__ inline std::int64_t first_seen(const CountParams& p, std::int64_t row) {
  return max(std::int64_t{0},
             -floor_quotient(p.attend.max_delta - row - p.attend.query_minus_key, p.key_step));
}
__device__ inline std::int64_t last_seen(const CountParams& p, std::int64_t row) {
  return min(p.attend.num_keys - 1,
             floor_quotient(row + p.attend.query_minus_key - p.attend.min_delta, p.key_step));
}

/// As work_item(), for keys that lie apart.
template <typename Shape>
__device__ WorkItem count_item(const CountParams& p, std::uint32_t index) {
  WorkItem item = work_item<Shape>(p.attend, index);
  const std::int64_t last_row = min(item.row + Shape::kRows, p.attend.num_queries) - 1;
  const std::int64_t begin = p.sees_all ? 0 : first_seen(p, item.row);
  const std::int64_t end = p.sees_all ? p.attend.num_keys : last_seen(p, last_row) + 1;
  item.first_tile = static_cast<std::int32_t>(begin / Shape::kKeys);
  item.num_tiles = end > begin ? static_cast<std::int32_t>((end - 1) / Shape::kKeys) + 1 - item.first_tile : 0;
  return item;
}

template <typename Shape>
class CountLoader {
 public:
  __device__ CountLoader(const CountParams& p, const CountMaps& maps, CountTiles<Shape>& shared)
      : p_(p), maps_(maps), shared_(shared) {}

  __device__ void run() {
    for (;;) {
      const std::uint32_t index = atomicAdd(p_.attend.next_item, 1u);
      const bool ends = index >= p_.attend.num_items;
      const WorkItem item = count_item<Shape>(p_, ends ? 0 : index);
      if (!ends && !is_open(item)) continue;
      shared_.q_ring.wait_empty(q_at_);
      shared_.item[q_at_.slot] = ends ? p_.attend.num_items : index;
      if (ends) {
        shared_.q_ring.fill(q_at_, 0);
        break;
      }
      load(item);
      q_at_.advance();
    }
    atomicAdd(p_.attend.tiles_loaded, loaded_);
  }

 private:
  /// Whether a row of the item is searched still.
  __device__ bool is_open(const WorkItem& item) const {
    if (p_.takes_all) return true;
    const std::int64_t stream = static_cast<std::int64_t>(item.batch) * p_.attend.num_slots + item.slot;
    const std::int64_t flags = (p_.attend.num_queries + kFlagRows - 1) / kFlagRows;
    for (std::int64_t at = item.row / kFlagRows; at < min(flags, (item.row + Shape::kRows) / kFlagRows); ++at) {
      if (p_.open[stream * flags + at] != 0) return true;
    }
    return false;
  }

  __device__ void load(const WorkItem& item) {
    shared_.q_ring.fill(q_at_, Shape::kQueryBytes);
    std::uint8_t* to = shared_.q[q_at_.slot];
    for (int d = 0; d < Shape::kHeadDim; d += 64, to += Shape::kRows * 128) {
      load_box<4>(to, &maps_.q, {d, static_cast<std::int32_t>(item.row), p_.attend.q_head[item.slot], item.batch},
                  shared_.q_ring.full[q_at_.slot]);
    }
    for (std::int32_t n = 0; n < item.num_tiles; ++n, ++loaded_) {
      const std::int64_t start = tile_start<Shape>(p_.attend, item.first_tile + item.num_tiles - 1 - n);
      shared_.k_ring.wait_empty(k_at_);
      shared_.k_ring.fill(k_at_, Shape::kKeyBytes);
      to = shared_.k[k_at_.slot];
      for (int d = 0; d < Shape::kHeadDim; d += 64, to += Shape::kKeys * 128) {
        load_box<5>(to, &maps_.k, {d, 0, static_cast<std::int32_t>(start), p_.attend.kv_head[item.slot], item.batch},
                    shared_.k_ring.full[k_at_.slot]);
      }
      k_at_.advance();
    }
  }

  const CountParams& p_;
  const CountMaps& maps_;
  CountTiles<Shape>& shared_;
  typename decltype(CountTiles<Shape>::q_ring)::Position q_at_;
  typename decltype(CountTiles<Shape>::k_ring)::Position k_at_;
  std::uint32_t loaded_ = 0;
};

/// A tile's scores, and the walk over an item's tiles: what counting and sampling share.
template <typename Shape, typename Element>
class ScoreWalk {
 public:
  static constexpr int kScores = Shape::kKeys / 2;  ///< of a thread and tile
  static constexpr int kRun = Shape::kKeys / 8;
  using Scores = float[kScores];

  __device__ ScoreWalk(const CountParams& p, CountTiles<Shape>& shared)
      : p_(p), shared_(shared), warpgroup_(uniform(static_cast<int>(threadIdx.x / 128)) - 1) {}

  __device__ static int lane() { return static_cast<int>(threadIdx.x % 32); }
  __device__ int row_of(int r) const {
    return 64 * warpgroup_ + static_cast<int>(threadIdx.x % 128 / 32) * 16 + lane() / 4 + 8 * r;
  }
  __device__ std::int64_t stream_row(const WorkItem& item, int r) const {
    return (static_cast<std::int64_t>(item.batch) * p_.attend.num_slots + item.slot) * p_.attend.num_queries +
           item.row + row_of(r);
  }
  __device__ bool exists(const WorkItem& item, int r) const { return item.row + row_of(r) < p_.attend.num_queries; }

  /// The next item; false where there is none.
  __device__ bool next(WorkItem& item) {
    shared_.q_ring.wait_full(q_at_);
    std::uint32_t index = 0;
    if (lane() == 0) index = shared_.item[q_at_.slot];
    index = __reduce_max_sync(0xFFFFFFFFu, index);
    if (index >= p_.attend.num_items) return false;
    item = count_item<Shape>(p_, index);
    return true;
  }
  __device__ void end_item() {
    shared_.q_ring.release(q_at_);
    q_at_.advance();
  }

  /// The next tile's scores, queued.
  __device__ void queue(Scores& s) {
    const int slot = uniform(k_at_.slot);
    shared_.k_ring.wait_full(k_at_);
    wgmma_fence();
    multiply_queries<Shape, Element>(s, shared_.q[q_at_.slot] + warpgroup_ * 64 * 128, shared_.k[slot]);
    wgmma_commit();
  }
  /// The tile's scores are there.
  __device__ void arrive(Scores& s) {
    wgmma_wait<0>();
    pin(s);
    shared_.k_ring.release(k_at_);
    k_at_.advance();
  }

  /// Keys of a tile that rows may see, in the tile's own numbers.
  struct TileKeys {
    std::int64_t start;  ///< first key, in the run's numbers
    int begin, end;
  };
  __device__ TileKeys keys_of(std::int32_t tile) const {
    const std::int64_t start = tile_start<Shape>(p_.attend, tile);
    return {start, static_cast<int>(static_cast<std::int64_t>(tile) * Shape::kKeys - start),
            static_cast<int>(min(p_.attend.num_keys - start, std::int64_t{Shape::kKeys}))};
  }
  /// Place in its tile of the thread's score i + 2 r + e of row r.
  __device__ static int key_of(int i, int e) { return (2 * (lane() % 4) + e) * kRun + i / 4; }

 protected:
  const CountParams& p_;
  CountTiles<Shape>& shared_;
  const int warpgroup_;
  typename decltype(CountTiles<Shape>::q_ring)::Position q_at_;
  typename decltype(CountTiles<Shape>::k_ring)::Position k_at_;
};

}  // namespace ringscan::cuda
