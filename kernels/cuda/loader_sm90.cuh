#pragma once
// The warp that loads: one thread takes work items and brings their queries, keys and values with TMA.

#include "kernels/cuda/work_item_sm90.cuh"

namespace ringscan::cuda {

template <typename Shape, typename Weights>
class Loader {
 public:
  using Shared = SharedTiles<Shape>;

  __device__ Loader(const AttendParams& p, const TensorMaps& maps, Shared& shared)
      : p_(p), maps_(maps), shared_(shared) {}

  __device__ void run() {
    const std::uint32_t num_tasks = p_.num_tasks();
    for (std::uint32_t count = 0;; ++count) {
      const std::uint32_t task = next_task(num_tasks);
      if (task >= num_tasks) {
        shared_.q_ring.wait_empty(q_at_);
        shared_.item[q_at_.slot].task = num_tasks;
        shared_.q_ring.fill(q_at_, 0);
        break;
      }
      const WorkItem item = work_item<Shape>(p_, task);
      shared_.q_ring.wait_empty(q_at_);
      shared_.item[q_at_.slot] = item;
      load_queries(item);
      load_keys(item, count);
      q_at_.advance();
    }
    atomicAdd(p_.tiles_loaded, loaded_);
  }

 private:
  /// num_tasks or more: there is none.
  __device__ std::uint32_t next_task(std::uint32_t num_tasks) {
    if constexpr (Weights::kDoesAgain) {
      const Overflows& again = p_.overflows;
      if (again.tasks != nullptr) {
        const std::uint32_t place = atomicAdd(&again.counts[1], 1u);
        return place < again.counts[0] ? again.tasks[place] : num_tasks;
      }
    }
    return atomicAdd(p_.next_item, 1u);
  }

  __device__ void load_queries(const WorkItem& item) {
    shared_.q_ring.fill(q_at_, Shape::kQueryBytes);
    std::uint8_t* to = shared_.q[q_at_.slot];
    for (int d = 0; d < Shape::kHeadDim; d += 64, to += Shape::kRows * 128) {
      load_box<4>(to, &maps_.q, {d, static_cast<std::int32_t>(item.row), p_.q_head[item.slot], item.batch},
                  shared_.q_ring.full[q_at_.slot]);
    }
  }

  __device__ void load_keys(const WorkItem& item, std::uint32_t count) {
    const std::uint32_t loaded_before = loaded_;
    for (std::int32_t n = 0; n < item.num_tiles; ++n) {
      if (Weights::kStopsEarly && p_.log2_epsilon > -INFINITY && stops(count, n, loaded_before)) {
        shared_.k_ring.wait_empty(k_at_);
        shared_.item_ends[k_at_.slot] = true;
        shared_.k_ring.fill(k_at_, 0);
        k_at_.advance();
        break;
      }
      const std::int64_t start = tile_start<Shape>(p_, item.first_tile + item.num_tiles - 1 - n);
      shared_.k_ring.wait_empty(k_at_);
      shared_.item_ends[k_at_.slot] = false;
      load_tile(maps_.k, shared_.k[k_at_.slot], shared_.k_ring, k_at_, start, item);
      shared_.v_ring.wait_empty(v_at_);
      load_tile(maps_.v, shared_.v[v_at_.slot], shared_.v_ring, v_at_, start, item);
      ++loaded_;
    }
    expected_tiles_ = loaded_ - loaded_before;
  }

  template <typename Ring>
  __device__ void load_tile(const CUtensorMap& map, std::uint8_t* to, Ring& ring, typename Ring::Position& at,
                            std::int64_t start, const WorkItem& item) {
    ring.fill(at, Shape::kKeyBytes);
    for (int d = 0; d < Shape::kHeadDim; d += 64, to += Shape::kKeys * 128) {
      load_box<5>(to, &map, {d, 0, static_cast<std::int32_t>(start), p_.kv_head[item.slot], item.batch},
                  ring.full[at.slot]);
    }
    at.advance();
  }

  /// True once all rows of the item are done. Loading ahead of that knowledge wastes tiles where items are short, and
  /// waiting for it wastes time where they are long: wait only about where the item before ended.
  __device__ bool stops(std::uint32_t count, std::int32_t n, std::uint32_t loaded_before) {
    const auto num = static_cast<std::uint32_t>(n);
    const bool waits = num >= expected_tiles_ && num < 2 * expected_tiles_ + 2 && n > 0;
    for (;;) {
      bool all_weighed = true;
      bool all_done = true;
      for (int w = 0; w < Shape::kConsumers; ++w) {
        all_weighed = all_weighed && published(shared_.weighed[w]) >= loaded_before + num;
        all_done = all_done && published(shared_.items_done[w]) == count + 1;
      }
      if (all_done || !waits || all_weighed) return all_done;
    }
  }

  /// What a warpgroup published; an atomic, since no barrier orders it.
  __device__ static std::uint32_t published(std::uint32_t& x) {
    const std::uint32_t value = atomicMax(&x, 0u);
    __threadfence_block();
    return value;
  }

  const AttendParams& p_;
  const TensorMaps& maps_;
  Shared& shared_;
  typename decltype(Shared::q_ring)::Position q_at_;
  typename decltype(Shared::k_ring)::Position k_at_;
  typename decltype(Shared::v_ring)::Position v_at_;
  std::uint32_t loaded_ = 0;          ///< key tiles since the start
  std::uint32_t expected_tiles_ = 2;  ///< those of the item before
};

}  // namespace ringscan::cuda
