#pragma once
// Linear attention on Hopper: the warp that brings chunks by TMA, each with its decays.

#include <cuda/ptx>

#include "kernels/cuda/chunk_decays.cuh"
#include "kernels/cuda/linear_layout_sm90.cuh"
#include "kernels/cuda/portable_tile.cuh"
#include "kernels/cuda/score_math.cuh"

namespace ringscan::cuda {

/// The warp that loads.
template <typename L>
class ChunkLoader {
 public:
  using Shared = typename L::Shared;

  __device__ ChunkLoader(const LinearDeviceParams& p, const LinearMaps& maps, Shared& shared)
      : p_(p), maps_(maps), shared_(shared), place_(p), lane_(static_cast<int>(threadIdx.x % 32)) {
    const RowsIn& g = p.log_decay;
    decays_at_ = place_.batch * g.strides.batch + p.decay_column[place_.slot] * g.strides.head;
  }

  __device__ void run() {
    const std::int64_t chunks = place_.num_chunks();
    float total = 0.0f;
    read_decays(token_of(0, chunks));
    for (std::int64_t n = 0; n < chunks; ++n) {
      const std::int64_t token = token_of(n, chunks);
      shared_.ring.wait_empty(at_);
      if (lane_ == 0) load(static_cast<std::int32_t>(token));
      ChunkDecays& decays = shared_.decays[at_.slot];
      total += make_decays(decays, token, L::kOutput ? 0.0f : total);
      const bool is_last = n + 1 == chunks || (!L::kOutput && total < kForgotten);
      if (lane_ == 0) {
        decays.total = total;
        decays.is_last = is_last;
      }
      ptx::mbarrier_arrive(&shared_.ring.full[at_.slot]);
      if (is_last) break;
      at_.advance();
      read_decays(token_of(n + 1, chunks));
    }
  }

 private:
  /// e^-32 of anything 2^20 tokens can sum up to is under half a unit in the last place of one token's k v.
  static constexpr float kForgotten = -32.0f;

  /// Forwards for output, backwards for a summary.
  __device__ std::int64_t token_of(std::int64_t n, std::int64_t chunks) const {
    return place_.begin + (L::kOutput ? n : chunks - 1 - n) * kLinearChunk;
  }

  __device__ void load(std::int32_t token) {
    std::uint64_t& full = shared_.ring.full[at_.slot];
    shared_.ring.fill(at_, L::kStageBytes);
    const int kv_head = p_.kv_head[place_.slot];
    const auto batch = static_cast<std::int32_t>(place_.batch);
    for (int tile = 0; tile < L::kKeyTiles; ++tile) {
      if constexpr (L::kOutput) {
        load_box<4>(shared_.q[at_.slot][tile], &maps_.q, {64 * tile, token, p_.q_head[place_.slot], batch}, full);
      }
      load_box<4>(shared_.k[at_.slot][tile], &maps_.k, {64 * tile, token, kv_head, batch}, full);
    }
    for (int tile = 0; tile < L::kGroups; ++tile) {
      load_box<4>(shared_.v[at_.slot][tile], &maps_.v, {64 * tile, token, kv_head, batch}, full);
    }
  }

  /// Two tokens' a lane.
  __device__ void read_decays(std::int64_t token) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const std::int64_t at = token + 2 * lane_ + i;
      next_[i] = at >= place_.end ? 0.0f
                 : p_.log_decay.data == nullptr
                     ? p_.head_log_decay[place_.slot]
                     : portable::load_element(p_.log_decay.data, p_.log_decay.type,
                                              decays_at_ + at * p_.log_decay.strides.row);
    }
  }
  /// The chunk's log decay; `behind`: that from its end on.
  __device__ float make_decays(ChunkDecays& to, std::int64_t token, float behind) const {
    const ChunkSums sums = sum_log_decays(next_, lane_);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = 2 * lane_ + i;
      to.c_log2[row] = sums.to[i] * kLog2E;
      to.from_begin[row] = __expf(sums.to[i]);
      to.to_end[row] = token + row < place_.end ? __expf(sums.all - sums.to[i] + behind) : 0.0f;
    }
    if (lane_ == 0) to.change = expm1f(sums.all);  // S + S (e^c - 1): a factor near 1 would round alike each time
    return sums.all;
  }

  const LinearDeviceParams& p_;
  const LinearMaps& maps_;
  Shared& shared_;
  LinearPlace place_;
  int lane_;
  std::int64_t decays_at_;
  float next_[2];
  typename decltype(Shared::ring)::Position at_;
};

}  // namespace ringscan::cuda
