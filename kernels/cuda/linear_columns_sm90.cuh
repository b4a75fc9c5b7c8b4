#pragma once
// Linear attention on Hopper: a warpgroup, which has 64 columns of v for itself and the state that belongs to them.
//
// S^T is fp32 in its accumulators, and goes to shared memory rounded, for Q S. Decayed values are the left operand of
// (decayed V)^T K and never leave the registers.

#include <cuda/ptx>

#include "kernels/cuda/linear_layout_sm90.cuh"
#include "kernels/cuda/score_math.cuh"
#include "kernels/cuda/wgmma_sm90.cuh"

namespace ringscan::cuda {

/// 16 bytes of a tile of 128-byte rows, as TMA's swizzle places them.
__device__ inline std::uint8_t* piece_of(std::uint8_t* tile, int row, int piece) {
  return tile + row * 128 + ((piece ^ row % 8) * 16);
}
__device__ inline void load_transposed(std::uint32_t (&to)[4], const std::uint8_t* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
__device__ inline void store_matrices(std::uint8_t* row, std::uint32_t a, std::uint32_t b, std::uint32_t c,
                                      std::uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   static_cast<std::uint32_t>(__cvta_generic_to_shared(row))),
               "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}
/// Accumulators of 64 rows and 2 kSize columns into tiles, rounded.
template <int kSize>
__device__ void store_sums(std::uint8_t* tiles, const float (&d)[kSize], float scale) {
  const int warp = static_cast<int>(threadIdx.x / 32 % 4);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int row = 16 * warp + lane % 16;  // matrices: rows 0-7, 8-15, then those of the next 8 columns
#pragma unroll
  for (int j = 0; j < kSize / 4; j += 2) {
    const float* x = d + 4 * j;
    store_matrices(piece_of(tiles + j / 8 * kLinearTileBytes, row, j % 8 + lane / 16),
                   Bf16::pack(x[0] * scale, x[1] * scale), Bf16::pack(x[2] * scale, x[3] * scale),
                   Bf16::pack(x[4] * scale, x[5] * scale), Bf16::pack(x[6] * scale, x[7] * scale));
  }
}

/// A warpgroup: 64 columns of v.
template <typename L>
class ColumnWalk {
 public:
  using Shared = typename L::Shared;

  __device__ ColumnWalk(const LinearDeviceParams& p, const LinearMaps& maps, Shared& shared)
      : p_(p), maps_(maps), shared_(shared), place_(p) {
    group_ = static_cast<int>(threadIdx.x / 128);
    warp_ = static_cast<int>(threadIdx.x / 32 % 4);
    lane_ = static_cast<int>(threadIdx.x % 32);
  }

  __device__ void run() {
    begin_state();
    const std::int64_t chunks = place_.num_chunks();
    if constexpr (L::kOutput) {
      share_state();
      meet();
      for (std::int64_t n = 0; n < chunks; ++n) output_chunk(place_.begin + n * kLinearChunk);
      if (is_speaker()) ptx::cp_async_bulk_wait_group(ptx::n32_t<0>{});
    } else {
      float total = 0.0f;
      for (bool is_last = chunks == 0; !is_last;) is_last = add_chunk(total);
      end_summary(total);
    }
  }

 private:
  static constexpr int kStateSize = L::kDim / 2;

  /// S^T: the column of v, and the row, of a thread's element.
  __device__ int v_of(int i) const { return 64 * group_ + 16 * warp_ + lane_ / 4 + 8 * (i / 2 % 2); }
  __device__ int k_of(int i) const { return i / 4 * 8 + lane_ % 4 * 2 + i % 2; }
  __device__ bool has(int i) const { return v_of(i) < p_.v_dim && k_of(i) < p_.head_dim; }
  __device__ std::int64_t place_of(int i) const {
    const std::int64_t summary = place_.stream * p_.segments.count + place_.segment;
    return (summary * p_.head_dim + k_of(i)) * p_.v_dim + v_of(i);
  }
  __device__ bool is_speaker() const { return threadIdx.x % 128 == 0; }
  /// The warpgroup's own barrier.
  __device__ void meet() const { asm volatile("bar.sync %0, 128;" ::"r"(1 + group_) : "memory"); }

  __device__ void begin_state() {
#pragma unroll
    for (int i = 0; i < kStateSize; ++i) {
      state_[i] = 0.0f;
      if (L::kOutput && has(i)) state_[i] = p_.segments.s_begin[place_of(i)];
    }
  }
  __device__ void end_summary(float total) const {
    if (threadIdx.x == 0) p_.segments.log_decay[place_.stream * p_.segments.count + place_.segment] = total;
#pragma unroll
    for (int i = 0; i < kStateSize; ++i) {
      if (has(i)) p_.segments.s[place_of(i)] = state_[i];
    }
  }
  __device__ void share_state() {
    store_sums(shared_.s[group_][0], state_, 1.0f);
    ptx::fence_proxy_async(ptx::space_shared);
  }

  /// The feature map, in place, by all warpgroups; zeros behind head_dim stay.
  __device__ void map(std::uint8_t (&tiles)[L::kKeyTiles][kLinearTileBytes]) const {
    for (int at = static_cast<int>(threadIdx.x); at < L::kKeyTiles * kLinearTileBytes / 16; at += 128 * L::kGroups) {
      const int tile = at / (kLinearTileBytes / 16);
      const int row = at / 8 % 64;
      const int column = 64 * tile + at % 8 * 8;
      auto* pairs = reinterpret_cast<__nv_bfloat162*>(piece_of(tiles[tile], row, at % 8));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float2 x = __bfloat1622float2(pairs[i]);
        x.x = column + 2 * i >= p_.head_dim ? 0.0f : x.x > 0.0f ? x.x + 1.0f : __expf(x.x);
        x.y = column + 2 * i + 1 >= p_.head_dim ? 0.0f : x.y > 0.0f ? x.y + 1.0f : __expf(x.y);
        pairs[i] = __floats2bfloat162_rn(x.x, x.y);
      }
    }
  }
  __device__ void map_features() {
    if (!p_.elu1) return;
    if constexpr (L::kOutput) map(shared_.q[at_.slot]);
    map(shared_.k[at_.slot]);
    ptx::fence_proxy_async(ptx::space_shared);
    asm volatile("bar.sync 8, %0;" ::"n"(128 * L::kGroups) : "memory");
  }

  /// The decayed values' columns as the left operand: 16 columns a warp, 64 tokens.
  __device__ void decay_values(std::uint32_t (&to)[kLinearChunk / 4]) {
    std::uint8_t* tile = shared_.v[at_.slot][group_];
    const float* to_end = shared_.decays[at_.slot].to_end;
#pragma unroll
    for (int step = 0; step < kLinearChunk / 16; ++step) {
      std::uint32_t raw[4];  // columns 0-7 and 8-15 of tokens 0-7; of tokens 8-15
      load_transposed(raw, piece_of(tile, 16 * step + lane_ / 16 * 8 + lane_ % 8, 2 * warp_ + lane_ / 8 % 2));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 factor =
            *reinterpret_cast<const float2*>(&to_end[16 * step + 8 * half + lane_ % 4 * 2]);
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          const float low = __uint_as_float(raw[i] << 16);
          const float high = __uint_as_float(raw[i] & 0xFFFF0000u);
          to[4 * step + i] = Bf16::pack(low * factor.x, high * factor.y);
        }
      }
    }
  }
  /// S^T += (decayed V)^T K, queued.
  __device__ void multiply_keys(const std::uint32_t (&values)[kLinearChunk / 4]) {
    const std::uint64_t k = matrix_descriptor(shared_.k[at_.slot][0], kLinearTileBytes);
#pragma unroll
    for (int token = 0; token < kLinearChunk; token += 16) {
      wgmma_rs<Bf16>(state_, &values[token / 4], advance(k, token * 128));
    }
  }

  /// One chunk of a summary, and whether it is the last.
  __device__ bool add_chunk(float& total) {
    shared_.ring.wait_full(at_);
    map_features();
    std::uint32_t values[kLinearChunk / 4];
    decay_values(values);
    total = shared_.decays[at_.slot].total;
    const bool is_last = shared_.decays[at_.slot].is_last;
    wgmma_fence();
    multiply_keys(values);
    wgmma_commit();
    wgmma_wait<0>();
    pin(state_);
    pin(values);
    ptx::mbarrier_arrive(&shared_.ring.empty[at_.slot]);  // each lane for what it has read itself
    at_.advance();
    return is_last;
  }

  /// Pairs' weights into rounded left operands.
  __device__ void weigh(const float (&pairs)[32], std::uint32_t (&to)[kLinearChunk / 4]) const {
    const float* c = shared_.decays[at_.slot].c_log2;
    const int row = 16 * warp_ + lane_ / 4;
    const float c_of_row[2] = {c[row], c[row + 8]};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int key = 8 * j + lane_ % 4 * 2;
      const float2 c_of_key = *reinterpret_cast<const float2*>(&c[key]);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float low = pairs[4 * j + 2 * r] * exp2_approx(c_of_row[r] - c_of_key.x);
        const float high = pairs[4 * j + 2 * r + 1] * exp2_approx(c_of_row[r] - c_of_key.y);
        to[2 * j + r] = Bf16::pack(key <= row + 8 * r ? low : 0.0f, key + 1 <= row + 8 * r ? high : 0.0f);
      }
    }
  }

  __device__ void output_chunk(std::int64_t token) {
    shared_.ring.wait_full(at_);
    map_features();
    float pairs[32], out[32];
    const std::uint64_t q = matrix_descriptor(shared_.q[at_.slot][0], 16);
    const std::uint64_t k = matrix_descriptor(shared_.k[at_.slot][0], 16);
    const std::uint64_t s = matrix_descriptor(shared_.s[group_][0], 16);
    wgmma_fence();
#pragma unroll
    for (int d = 0; d < L::kDim; d += 16) {
      const int at = d / 64 * kLinearTileBytes + d % 64 * 2;
      wgmma_ss<Bf16>(pairs, advance(q, at), advance(k, at), d > 0);
    }
    wgmma_commit();
#pragma unroll
    for (int d = 0; d < L::kDim; d += 16) {
      const int at = d / 64 * kLinearTileBytes + d % 64 * 2;
      wgmma_ss<Bf16>(out, advance(q, at), advance(s, at), d > 0);
    }
    wgmma_commit();
    std::uint32_t values[kLinearChunk / 4], weights[kLinearChunk / 4];
    decay_values(values);
    const ChunkDecays& decays = shared_.decays[at_.slot];
#pragma unroll
    for (int i = 0; i < kStateSize; ++i) state_[i] = fmaf(state_[i], decays.change, state_[i]);
    wgmma_wait<1>();
    pin(pairs);
    weigh(pairs, weights);
    wgmma_wait<0>();
    pin(out);
#pragma unroll
    for (int i = 0; i < 32; ++i) out[i] *= decays.from_begin[16 * warp_ + lane_ / 4 + 8 * (i / 2 % 2)];
    const std::uint64_t v = matrix_descriptor(shared_.v[at_.slot][group_], kLinearTileBytes);
    wgmma_fence();
#pragma unroll
    for (int key = 0; key < kLinearChunk; key += 16) wgmma_rs<Bf16>(out, &weights[key / 4], advance(v, key * 128));
    wgmma_commit();
    multiply_keys(values);
    wgmma_commit();
    if (is_speaker()) ptx::cp_async_bulk_wait_group_read(ptx::n32_t<0>{});  // the last chunk's rows have left
    meet();
    wgmma_wait<1>();
    pin(out);
    pin(weights);
    store_sums(shared_.o[group_], out, p_.scale);
    wgmma_wait<0>();
    pin(state_);
    pin(values);
    ptx::mbarrier_arrive(&shared_.ring.empty[at_.slot]);  // each lane for what it has read itself
    at_.advance();
    share_state();
    meet();
    if (is_speaker()) store_rows(static_cast<std::int32_t>(token));
  }
  /// Behind share_state()'s fence. Rows behind the run, and columns behind v_dim, are not written.
  __device__ void store_rows(std::int32_t token) const {
    const std::int32_t at[4] = {64 * group_, token, p_.q_head[place_.slot], static_cast<std::int32_t>(place_.batch)};
    ptx::cp_async_bulk_tensor(ptx::space_global, ptx::space_shared, &maps_.o, at, shared_.o[group_]);
    ptx::cp_async_bulk_commit_group();
  }

  const LinearDeviceParams& p_;
  const LinearMaps& maps_;
  Shared& shared_;
  LinearPlace place_;
  int group_, warp_, lane_;
  float state_[kStateSize];
  typename decltype(Shared::ring)::Position at_;
};

}  // namespace ringscan::cuda
