#pragma once
// A warpgroup that computes: 64 query rows against the tiles of keys, with the mechanism's weights.

#include "kernels/cuda/score_math.cuh"
#include "kernels/cuda/search.hpp"
#include "kernels/cuda/wgmma_sm90.cuh"
#include "kernels/cuda/work_item_sm90.cuh"

namespace ringscan::cuda {

template <typename Shape, typename Element, typename Weights>
class Consumer {
 public:
  using Shared = SharedTiles<Shape>;
  static constexpr int kScores = Shape::kKeys / 2;                    ///< of a thread and tile
  static constexpr int kBlockDim = Shape::kHeadDim < 128 ? 64 : 128;  ///< columns of out that one wgmma makes
  static constexpr int kBlocks = Shape::kHeadDim / kBlockDim;
  static constexpr int kBlockOut = kBlockDim / 2;  ///< of a thread and block

  __device__ Consumer(const AttendParams& p, Shared& shared)
      : p_(p), shared_(shared), warpgroup_(uniform(static_cast<int>(threadIdx.x / 128)) - 1) {}

  __device__ void run() {
    TurnOrder::start(warpgroup_);
    for (std::uint32_t count = 0;; ++count) {
      shared_.q_ring.wait_full(q_at_);
      std::uint32_t task = from_first_lane(shared_.item[q_at_.slot].task);
      if (task >= p_.num_tasks()) return;
      const WorkItem item = item_of(shared_.item[q_at_.slot]);
      begin(item);
      std::int32_t tiles_left = item.num_tiles;
      if (tiles_left > 0) tiles_left = walk_keys(item, count);
      shared_.q_ring.release(q_at_);
      q_at_.advance();
      asm volatile("" : "+r"(task));  // worked out once more, so that the walk has the registers
      finish(work_item<Shape>(p_, task));
      if (tiles_left > 0) pass_over(tiles_left);
    }
  }

 private:
  using TurnOrder = Turn<Shape::kConsumers>;

  __device__ static int lane() { return static_cast<int>(threadIdx.x % 32); }
  /// Row of the tile that the thread's first (r = 0) or second row is.
  __device__ int row_of(int r) const {
    return 64 * warpgroup_ + static_cast<int>(threadIdx.x % 128 / 32) * 16 + lane() / 4 + 8 * r;
  }
  __device__ std::int64_t partial_row(const WorkItem& item, std::int64_t row) const {
    return (static_cast<std::int64_t>(item.batch) * p_.num_slots + item.slot) * p_.num_queries + row;
  }

  /// Phase 1: the row states and out, at the identity or as carried in.
  __device__ void begin(const WorkItem& item) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const std::int64_t row = item.row + row_of(r);
      const bool exists = row < p_.num_queries;
      weights_.begin(r);
      if (!exists) weights_.carry_in(r, -INFINITY, 0.0f);  // nothing is left to do in such a row
      const bool carried = exists && !p_.starts && item.part_row < 0;
      const std::int64_t at = partial_row(item, row);
      if constexpr (Weights::kChooses) {
        weights_.choose_for(r, exists ? p_.search + at : nullptr, p_.scale_log2);
      }
      if (carried) weights_.carry_in(r, p_.first[at], Weights::kSums ? p_.sum[at] : 0.0f);
      float factor = kLiftFactor;
      if constexpr (Weights::kMayOverflow) factor = carried ? exp2f(p_.first[at]) : 1.0f;
      const float* from = p_.out + at * p_.head_dim;
      for_each_pair(r, [&](int column, float& a, float& b) {
        const bool inside = carried && column < p_.head_dim;
        a = inside ? from[column] * factor : 0.0f;
        b = inside ? from[column + 1] * factor : 0.0f;
      });
    }
  }

  /// Phase 2: all visible tiles, or until every row is done. Returns the tiles not walked.
  __device__ std::int32_t walk_keys(const WorkItem& item, std::uint32_t count) {
    float s[kScores];
    int unseen[2];
    std::uint32_t weights[kScores / 2];
    std::int32_t tile = item.first_tile + item.num_tiles - 1;
    find_whole_tiles(item);

    shared_.k_ring.wait_full(k_at_);
    wgmma_fence();
    multiply_queries(s);
    wgmma_commit();
    wgmma_wait<0>();
    pin(s);
    release(shared_.k_ring, k_at_);
    mask(s, item, tile, unseen);
    choose(s, tile);
    weigh_first(s, unseen, weights);
    bool done = row_states_done(count);

    while (!done && --tile >= item.first_tile) done = next_tile(item, tile, count, s, weights);

    shared_.v_ring.wait_full(v_at_);
    wgmma_fence();
    multiply_values(weights);
    wgmma_commit();
    wgmma_wait<0>();
    pin_out();
    release(shared_.v_ring, v_at_);
    return done ? tile - item.first_tile : 0;
  }

  /// The scores of `tile` and the products of the tile before, whose weights are `weights`; then these are those of `tile`.
  /// Returns row_states_done().
  __device__ bool next_tile(const WorkItem& item, std::int32_t tile, std::uint32_t count, float (&s)[kScores],
                            std::uint32_t (&weights)[kScores / 2]) {
    int unseen[2];
    shared_.k_ring.wait_full(k_at_);
    TurnOrder::take(warpgroup_);
    wgmma_fence();
    multiply_queries(s);
    wgmma_commit();
    shared_.v_ring.wait_full(v_at_);
    wgmma_fence();
    multiply_values(weights);
    wgmma_commit();
    TurnOrder::pass(warpgroup_);
    wgmma_wait<1>();
    pin(s);
    release(shared_.k_ring, k_at_);
    mask(s, item, tile, unseen);
    choose(s, tile);
    float rescale[2];
    const bool settles = weights_.prepare(s, p_.scale_log2, rescale);
    wgmma_wait<0>();
    pin_out();
    pin(weights);  // until here the products read them
    release(shared_.v_ring, v_at_);
    weights_.weigh(s, p_.scale_log2, unseen);
    pack(weights, s);
    if (settles) settle(rescale, weights);
    return row_states_done(count);
  }

  /// Tiles loaded before the loader knew that the item had ended.
  __device__ void pass_over(std::int32_t tiles_left) {
    for (; tiles_left > 0; --tiles_left) {
      shared_.k_ring.wait_full(k_at_);
      const bool item_ends = from_first_lane(shared_.item_ends[k_at_.slot]) != 0;
      release(shared_.k_ring, k_at_);
      if (item_ends) return;
      TurnOrder::take(warpgroup_);
      TurnOrder::pass(warpgroup_);
      shared_.v_ring.wait_full(v_at_);
      release(shared_.v_ring, v_at_);
      publish(shared_.weighed[warpgroup_], ++weighed_);
    }
  }

  /// Phase 3: rows go out, rounded once where they are finished.
  __device__ void finish(const WorkItem& item) {
    weights_.close();
    if constexpr (Weights::kMayOverflow) {
      if (overflows(item.task)) return;
    }
    if constexpr (Weights::kDoesAgain) {
      const Overflows& again = p_.overflows;
      if (again.tasks != nullptr && (again.warpgroups[item.task] >> warpgroup_ & 1) == 0) return;
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const std::int64_t row = item.row + row_of(r);
      const bool exists = row < p_.num_queries;
      if (p_.finishes && item.task < p_.num_whole) {
        finish_row(item, r, row, exists);
      } else if (exists) {
        const bool is_part = item.part_row >= 0;
        carry_out_row(r, is_part ? item.part_row + row_of(r) : partial_row(item, row), is_part ? p_.part_out : p_.out,
                      is_part ? p_.part_first : p_.first, is_part ? p_.part_sum : p_.sum);
      }
    }
  }

  /// Whether the warpgroup's rows have to be done again, which they are then noted for.
  __device__ bool overflows(std::uint32_t task) {
    if (all_of_warpgroup(weights_.fits(), 1 + Shape::kConsumers + warpgroup_)) return false;
    const Overflows& noted = p_.overflows;
    if (threadIdx.x % 128 == 0 && atomicOr(&noted.warpgroups[task], 1u << warpgroup_) == 0) {
      noted.tasks[atomicAdd(&noted.counts[0], 1u)] = task;
    }
    return true;
  }

  __device__ void carry_out_row(int r, std::int64_t at, float* out, float* first, float* sum) {
    if (lane() % 4 == 0) {
      first[at] = weights_.first(r);
      if (Weights::kSums) sum[at] = weights_.sum(r);
    }
    float* to = out + at * p_.head_dim;
    for_each_pair(r, [&](int column, float& a, float& b) {
      if (column < p_.head_dim) *reinterpret_cast<float2*>(to + column) = {a / kLiftFactor, b / kLiftFactor};
    });
  }

  __device__ void finish_row(const WorkItem& item, int r, std::int64_t row, bool exists) {
    const int head = p_.q_head[item.slot];
    const auto offset = [&](const RowStrides& strides) {
      return item.batch * strides.batch + row * strides.row + head * strides.head;
    };
    if (exists && p_.statistic != nullptr && lane() % 4 == 0) {
      p_.statistic[offset(p_.statistic_strides)] = weights_.statistic(r);
    }
    const float normalizer = weights_.normalizer(r);
    auto* to = static_cast<std::uint16_t*>(p_.o) + offset(p_.o_strides);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int i = 0; i < kBlockOut; i += 16) {
        std::uint32_t bits[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float* pair = &out_[block][i + 4 * j + 2 * r];
          bits[j] = Element::pack(pair[0] * normalizer, pair[1] * normalizer);
        }
        transpose_quad(bits);
        const int column = block * kBlockDim + 2 * i + 8 * (lane() % 4);
        if (exists && column < p_.head_dim) {
          *reinterpret_cast<uint4*>(to + column) = {bits[0], bits[1], bits[2], bits[3]};
        }
      }
    }
  }

  /// bits[j] of lane t becomes bits[t] of lane j, in each quad: a lane's 8-byte pieces become 16 contiguous bytes.
  __device__ static void transpose_quad(std::uint32_t (&bits)[4]) {
    const bool odd = lane() % 2 != 0;
    const bool upper = lane() % 4 >= 2;
#pragma unroll
    for (int j = 0; j < 4; j += 2) exchange(bits[j], bits[j + 1], odd, 1);
#pragma unroll
    for (int j = 0; j < 2; ++j) exchange(bits[j], bits[j + 2], upper, 2);
  }
  __device__ static void exchange(std::uint32_t& low, std::uint32_t& high, bool has_high, int distance) {
    const std::uint32_t got = __shfl_xor_sync(0xFFFFFFFFu, has_high ? low : high, distance);
    (has_high ? low : high) = got;
  }

  /// Where the loop's end is found out on the way, ptxas does not know slots to be the same in all lanes. 7 % faster at
  /// head_dim 64, 2.5 % at 256, but 1 % slower at 128; cog there 2.5 %.
  __device__ static int uniform_slot(int slot) {
    return Weights::kStopsEarly && Shape::kHeadDim != 128 ? uniform(slot) : slot;
  }
  __device__ void multiply_queries(float (&s)[kScores]) {
    cuda::multiply_queries<Shape, Element>(s, shared_.q[uniform_slot(q_at_.slot)] + warpgroup_ * 64 * 128,
                                           shared_.k[uniform_slot(k_at_.slot)]);
  }
  /// out += P V, queued.
  __device__ void multiply_values(const std::uint32_t (&weights)[kScores / 2]) {
    const std::uint64_t v = matrix_descriptor(shared_.v[uniform_slot(v_at_.slot)], Shape::kKeys * 128);
#pragma unroll
    for (int j = 0; j < Shape::kKeys; j += 16) {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        wgmma_rs<Element>(out_[block], &weights[j / 4],
                          advance(v, j * 128 + block * (kBlockDim / 64) * Shape::kKeys * 128));
      }
    }
  }

  /// The tiles, where they are not moved, whose keys all rows of the warpgroup see.
  __device__ void find_whole_tiles(const WorkItem& item) {
    const std::int64_t first_row = item.row + 64 * warpgroup_;
    const std::int64_t last_row = max(std::int64_t{0}, min(first_row + 63, p_.num_queries - 1));  // sees the fewest
    const std::int64_t begin = ceil_tiles(last_row + p_.query_minus_key - reach(p_, last_row));
    const std::int64_t end = floor_tiles(min(first_row + p_.query_minus_key - p_.min_delta + 1, p_.num_keys));
    whole_begin_ = static_cast<std::int32_t>(max(begin, std::int64_t{0}));
    whole_count_ = static_cast<std::uint32_t>(max(end - whole_begin_, std::int64_t{0}));
  }
  __device__ static std::int64_t floor_tiles(std::int64_t keys) {
    static_assert((Shape::kKeys & (Shape::kKeys - 1)) == 0);
    return keys >> __popc(Shape::kKeys - 1);
  }
  __device__ static std::int64_t ceil_tiles(std::int64_t keys) { return floor_tiles(keys + Shape::kKeys - 1); }

  /// Scores of keys that a row does not see become kNotSeen; `unseen`: how many of the thread's, in each row.
  __device__ void mask(float (&s)[kScores], const WorkItem& item, std::int32_t tile, int (&unseen)[2]) const {
    unseen[0] = unseen[1] = 0;
    if (static_cast<std::uint32_t>(tile - whole_begin_) < whole_count_) return;
    const std::int64_t start = tile_start<Shape>(p_, tile);
    const std::int64_t begin = static_cast<std::int64_t>(tile) * Shape::kKeys - start;   // > 0 in a moved tile
    const std::int64_t delta = item.row + 64 * warpgroup_ + p_.query_minus_key - start;  // of the first row and key
    const std::int64_t end = min(p_.num_keys - start, std::int64_t{Shape::kKeys});       // less where keys are padded
    constexpr int kRun = Shape::kKeys / 8;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const std::int64_t row_delta = delta + row_of(r) - 64 * warpgroup_;
      const std::int64_t row = min(item.row + row_of(r), p_.num_queries - 1);
      const int first = static_cast<int>(min(max(row_delta - reach(p_, row), begin), std::int64_t{Shape::kKeys}));
      const int last = static_cast<int>(max(min(row_delta - p_.min_delta, end - 1), std::int64_t{-1}));
      const std::uint32_t seen = bits_below(last + 1 - lane() % 4 * 2 * kRun) & ~bits_below(first - lane() % 4 * 2 * kRun);
      unseen[r] = 2 * kRun - __popc(seen);
#pragma unroll
      for (int i = 0; i < kScores; i += 4) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if ((seen >> (e * kRun + i / 4) & 1) == 0) s[i + 2 * r + e] = Weights::kNotSeen;
        }
      }
    }
  }
  /// Those of a lane's keys, in either row, whose number is under `end`.
  __device__ static std::uint32_t bits_below(int end) {
    constexpr int kLaneKeys = Shape::kKeys / 4;
    return static_cast<std::uint32_t>((std::uint64_t{1} << min(max(end, 0), kLaneKeys)) - 1);
  }

  /// Scores that the mechanism does not take become kNotSeen.
  __device__ void choose(float (&s)[kScores], std::int32_t tile) {
    if constexpr (Weights::kChooses) weights_.choose(s, p_.first_key + tile_start<Shape>(p_, tile));
  }

  __device__ static void pack(std::uint32_t (&weights)[kScores / 2], const float (&s)[kScores]) {
#pragma unroll
    for (int i = 0; i < kScores; i += 2) weights[i / 2] = Element::pack(s[i], s[i + 1]);
  }
  __device__ void weigh_first(float (&s)[kScores], const int (&unseen)[2], std::uint32_t (&weights)[kScores / 2]) {
    float rescale[2];
    const bool settles = weights_.prepare(s, p_.scale_log2, rescale);
    weights_.weigh(s, p_.scale_log2, unseen);
    pack(weights, s);
    if (settles) settle(rescale, weights);
  }
  /// What some tiles need once the last one's products are through.
  __device__ void settle(const float (&rescale)[2], std::uint32_t (&weights)[kScores / 2]) {
    if constexpr (Weights::kTakesBack) weights_.take_back(weights);
    if constexpr (Weights::kRescales) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        for_each_pair(r, [&](int, float& a, float& b) {
          a *= rescale[r];
          b *= rescale[r];
        });
      }
    }
  }
  __device__ void pin_out() {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) pin(out_[block]);
  }
  /// f(column, out, out of the next column) over the thread's part of its row r.
  template <typename F>
  __device__ void for_each_pair(int r, F&& f) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int i = 0; i < kBlockOut; i += 4) {
        f(block * kBlockDim + 2 * i + 2 * (lane() % 4), out_[block][i + 2 * r], out_[block][i + 2 * r + 1]);
      }
    }
  }

  template <typename Ring>
  __device__ void release(Ring& ring, typename Ring::Position& at) {
    ring.release(at);
    at.advance();
  }

  /// True where no further key can change a row of this warpgroup; tells the loader.
  __device__ bool row_states_done(std::uint32_t count) {
    if (!Weights::kStopsEarly || p_.log2_epsilon == -INFINITY) return false;
    const bool done = all_of_warpgroup(weights_.exhausted(p_.log2_epsilon), 1 + Shape::kConsumers + warpgroup_);
    if (done) publish(shared_.items_done[warpgroup_], count + 1);
    publish(shared_.weighed[warpgroup_], ++weighed_);
    return done;
  }
  __device__ static void publish(std::uint32_t& to, std::uint32_t value) {
    if (threadIdx.x % 128 != 0) return;
    atomicMax(&to, value);
    __threadfence_block();  // items_done is seen no later than weighed
  }

  static constexpr float kLiftFactor = static_cast<float>(1 << Weights::kLift);

  const AttendParams& p_;
  Shared& shared_;
  const int warpgroup_;
  Weights weights_;
  float out_[kBlocks][kBlockOut];
  typename decltype(Shared::q_ring)::Position q_at_;
  typename decltype(Shared::k_ring)::Position k_at_;
  typename decltype(Shared::v_ring)::Position v_at_;
  std::int32_t whole_begin_;  ///< of the item, see find_whole_tiles()
  std::uint32_t whole_count_;
  std::uint32_t weighed_ = 0;
};

}  // namespace ringscan::cuda
