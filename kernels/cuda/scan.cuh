#pragma once
// The selective scan. A block has some channels of one group, kLanes lanes for each two, with four states of both, and a
// segment of the tokens, which it walks in tiles: while one is computed, the next is on its way to registers. delta, after
// softplus, and delta u are made once a channel and token, on the way to shared memory.
//
// Segments need not wait for each other: a block finds its state at the segment's begin by itself, backwards from
// there, until what lies farther has decayed to nothing.

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/portable_tile.cuh"
#include "kernels/cuda/scan_elements.cuh"
#include "kernels/cuda/scan_params.hpp"
#include "kernels/cuda/score_math.cuh"

namespace ringscan::cuda {

template <int kLanes, bool kPrecise, ScanElements kElementsAre>
class ScanBlock {
 public:
  using Math = ScanMath<kPrecise>;
  using Source = ScanSource<kPrecise, kElementsAre>;
  using Raw = typename Source::Raw;

  static constexpr int kStates = 4;  ///< of a lane
  static constexpr int kWidth = kLanes * kStates;
  static constexpr int kChannels = scan_channels(kLanes);
  static constexpr int kParts = scan_parts(kLanes);                 ///< threads that stage a channel
  static constexpr int kElements = kScanTokens / kParts;            ///< (token, channel) pairs each stages
  static constexpr int kOwn = kScanOwn;                             ///< channels of a thread
  static constexpr int kGroup = kScanTokens * kWidth;               ///< elements of B in a tile, and of C
  static constexpr int kGroupElements = 2 * kGroup / kScanThreads;  ///< of B and C that each stages

  struct Shared {
    float2 delta[2][kScanTokens][kChannels];  ///< delta and delta u
    float4 b[2][kScanTokens][kLanes];
    float4 c[2][kScanTokens][kLanes];
    float y[2][kScanTokens][kChannels + 8];
  };

  __device__ ScanBlock(const ScanParams& p, Shared& shared) : p_(p), shared_(shared) {
    std::int64_t index = blockIdx.x;
    const std::int64_t block = index % p.blocks_per_group;
    index /= p.blocks_per_group;
    group_ = p.first_group + index % p.num_groups;
    index /= p.num_groups;
    segment_ = p.num_segments - 1 - index % p.num_segments;
    batch_ = index / p.num_segments;
    tokens_ = static_cast<int>(p.tokens);
    const std::int64_t group_begin = group_ * p.channels_per_group - p.first_channel;
    const std::int64_t first = group_begin + block * kChannels;
    const std::int64_t end = min(p.channels, group_begin + p.channels_per_group);
    const auto exists = [&](std::int64_t channel) { return channel >= 0 && channel < end; };
    channel_ = first + kOwn * own();
    staged_ = first + threadIdx.x % kChannels;
    y_begin_ = batch_ * p.y_strides.batch + staged_;
    stages_ = exists(staged_) && static_cast<int>(threadIdx.x) < kChannels * kParts;
    u_ = Source(p.u, batch_, staged_);
    delta_ = Source(p.delta, batch_, staged_);
    z_ = Source(p.z, batch_, staged_);
#pragma unroll
    for (int i = 0; i < kGroupElements; ++i) {
      const RowsIn& from = is_of_c(i) ? p.c : p.b;
      groups_[group_source(i)] = Source(from, batch_, group_ * from.strides.head + threadIdx.x % kWidth);
    }
    bias_ = stages_ && p.delta_bias != nullptr ? p.delta_bias[staged_] : 0.0f;
    d_ = stages_ && p.d != nullptr ? p.d[staged_] : 0.0f;
#pragma unroll
    for (int ch = 0; ch < kOwn; ++ch) exists_[ch] = exists(channel_ + ch);
    for_each_state([&](int ch, int n) {
      a_[ch][n] = has(ch, n) ? p.a[(channel_ + ch) * p.d_state + state_of(n)] * (kPrecise ? 1.0f : kLog2E) : 0.0f;
      h_[ch][n] = 0.0f;
    });
  }

  __device__ void run() {
    const auto begin = static_cast<int>(segment_ * p_.segment_tokens);
    const auto end = static_cast<int>(min(p_.tokens, begin + p_.segment_tokens));
    if (p_.y != nullptr) {
      find_state(begin);
      walk(begin, end);
    } else {
      if (segment_ == p_.num_segments - 1) find_state(tokens_);
      if (p_.delta_parts != nullptr) sum_deltas(begin, end);
    }
    if (segment_ == p_.num_segments - 1 && p_.h_out != nullptr) store_state();
  }

 private:
  __device__ int lane() const { return static_cast<int>(threadIdx.x % kLanes); }
  __device__ int state_of(int n) const { return lane() * kStates + n; }
  __device__ static int own() { return static_cast<int>(threadIdx.x) / kLanes; }
  __device__ bool has(int ch, int n) const { return exists_[ch] && state_of(n) < p_.d_state; }
  template <typename F>
  __device__ static void for_each_state(F&& f) {
#pragma unroll
    for (int ch = 0; ch < kOwn; ++ch) {
#pragma unroll
      for (int n = 0; n < kStates; ++n) f(ch, n);
    }
  }
  /// Of the elements of B and, behind them, of C in a tile, which lie kScanThreads apart.
  __device__ static bool is_of_c(int i) { return static_cast<int>(threadIdx.x) + i * kScanThreads >= kGroup; }
  __device__ static constexpr int group_source(int i) { return kGroupElements > 1 && i >= kGroupElements / 2 ? 1 : 0; }
  __device__ static int group_element(int i) { return (static_cast<int>(threadIdx.x) + i * kScanThreads) % kGroup; }
  /// The token of a tile that this thread stages as its i-th.
  __device__ static int token_of(int i) { return static_cast<int>(threadIdx.x) / kChannels + kParts * i; }

  /// Elements on their way to shared memory, as they were read: nothing waits for one before it is staged.
  struct Staged {
    Raw u[kElements], delta[kElements], z[kElements];
    Raw group[kGroupElements];
    int first;  ///< token
  };

  __device__ bool has_token(int token) const { return token >= 0 && token < tokens_; }
  /// All tokens of the tile exist, and all channels that this thread stages.
  __device__ bool is_whole(int first) const { return stages_ && first >= 0 && first + kScanTokens <= tokens_; }
  /// Tokens [first, first + kScanTokens) into registers; those outside [0, tokens) leave the state as it is.
  __device__ void fetch(Staged& to, int first) const {
    to.first = first;
    if (is_whole(first)) {
      fetch_rows<true>(to, first);
    } else {
      fetch_rows<false>(to, first);
    }
  }
  template <bool kIsWhole>
  __device__ void fetch_rows(Staged& to, int first) const {
    fetch_elements<kIsWhole>(to.u, u_, first);
    fetch_elements<kIsWhole>(to.delta, delta_, first);
    if (p_.z.data != nullptr) fetch_elements<kIsWhole>(to.z, z_, first);
    const bool has_state = static_cast<int>(threadIdx.x) % kWidth < p_.d_state;
#pragma unroll
    for (int i = 0; i < kGroupElements; ++i) {
      const int token = first + group_element(i) / kWidth;
      const Source& from = groups_[group_source(i)];
      to.group[i] = has_state && (kIsWhole || has_token(token)) ? from.load(from.token(token)) : Raw{0};
    }
  }
  template <bool kIsWhole>
  __device__ void fetch_elements(Raw (&to)[kElements], const Source& from, int first) const {
    const std::byte* at = from.token(first + token_of(0));
#pragma unroll
    for (int i = 0; i < kElements; ++i, at += kParts * from.row_bytes) {
      to[i] = kIsWhole || (stages_ && has_token(first + token_of(i))) ? from.load(at) : Raw{0};
    }
  }
  __device__ void stage(const Staged& from, int buffer) {
    if (is_whole(from.first)) {
      stage_rows<true>(from, buffer);
    } else {
      stage_rows<false>(from, buffer);
    }
  }
  template <bool kIsWhole>
  __device__ void stage_rows(const Staged& from, int buffer) {
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      const bool exists = kIsWhole || (stages_ && has_token(from.first + token_of(i)));
      const float delta = exists ? Math::softplus(Source::value(from.delta[i], p_.delta.type) + bias_) : 0.0f;
      delta_sum_ += delta;
      if (static_cast<int>(threadIdx.x) < kChannels * kParts) {
        const float u = Source::value(from.u[i], p_.u.type);
        shared_.delta[buffer][token_of(i)][threadIdx.x % kChannels] = {delta, delta * u};
      }
    }
#pragma unroll
    for (int i = 0; i < kGroupElements; ++i) {
      auto* to = reinterpret_cast<float*>(is_of_c(i) ? shared_.c[buffer] : shared_.b[buffer]);
      to[group_element(i)] = Source::value(from.group[i], is_of_c(i) ? p_.c.type : p_.b.type);
    }
  }

  /// The state before token `end`: sum over s < end of e^(A (delta_(s+1) + ... + delta_(end-1))) delta_s B_s u_s.
  __device__ void find_state(int end) {
    float since[kOwn] = {};  // sums of the deltas passed
    Staged next{};
    for (int first = end - kScanTokens; first > -kScanTokens; first -= kScanTokens) {
      fetch(next, first);
      __syncthreads();
      stage(next, 0);
      __syncthreads();
      for (int t = kScanTokens - 1; t >= 0; --t) {
        const Deltas delta = deltas(0, t);
        const float4 b = shared_.b[0][t][lane()];
        const float four[kStates] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int ch = 0; ch < kOwn; ++ch) {
#pragma unroll
          for (int n = 0; n < kStates; ++n) {
            h_[ch][n] = fmaf(Math::power(a_[ch][n] * since[ch]), delta.times_u[ch] * four[n], h_[ch][n]);
          }
          since[ch] += delta.itself[ch];
        }
      }
      bool forgotten = true;
      for_each_state([&](int ch, int n) {
        forgotten = forgotten && (!has(ch, n) || a_[ch][n] * since[ch] < -64.0f);
      });
      if (__syncthreads_and(forgotten)) return finish_search();
    }
    if (p_.h_in != nullptr) {
      for_each_state([&](int ch, int n) {
        if (has(ch, n)) h_[ch][n] = fmaf(Math::power(a_[ch][n] * since[ch]), p_.h_in[state_place(ch, n)], h_[ch][n]);
      });
    }
    finish_search();
  }
  __device__ void finish_search() {
    delta_sum_ = 0.0f;
    __syncthreads();
  }

  /// Output of the tokens [begin, end). One barrier a tile: a tile's rows go out while the next one is computed.
  __device__ void walk(int begin, int end) {
    Staged next{};
    Raw u[kElements], z[kElements];
    fetch(next, begin);
    int buffer = 0;
    for (int first = begin; first < end; first += kScanTokens, buffer ^= 1) {
      stage(next, buffer);
      __syncthreads();
      if (first > begin) store(u, z, first - kScanTokens, end, buffer ^ 1);
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        u[i] = next.u[i];
        z[i] = next.z[i];
      }
      if (first + kScanTokens < end) fetch(next, first + kScanTokens);
      compute(buffer);
    }
    __syncthreads();
    if (begin < end) store(u, z, begin + (end - begin - 1) / kScanTokens * kScanTokens, end, buffer ^ 1);
    if (p_.delta_parts != nullptr) store_delta_sum();
  }

  struct Deltas {
    float itself[kOwn], times_u[kOwn];
  };
  __device__ Deltas deltas(int buffer, int token) const {
    static_assert(kOwn == 2);
    const auto both = *reinterpret_cast<const float4*>(&shared_.delta[buffer][token][kOwn * own()]);
    return {{both.x, both.z}, {both.y, both.w}};
  }

  /// Four tokens at a time, so that a quad's sums end one in each lane.
  __device__ void compute(int buffer) {
#pragma unroll 1
    for (int first = 0; first < kScanTokens; first += 4) {
      float y[kOwn][4];
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        const Deltas delta = deltas(buffer, first + t);
        const float4 b4 = shared_.b[buffer][first + t][lane()];
        const float4 c4 = shared_.c[buffer][first + t][lane()];
        const float b[kStates] = {b4.x, b4.y, b4.z, b4.w};
        const float c[kStates] = {c4.x, c4.y, c4.z, c4.w};
#pragma unroll
        for (int ch = 0; ch < kOwn; ++ch) {
          y[ch][t] = 0.0f;
#pragma unroll
          for (int n = 0; n < kStates; ++n) {
            float& h = h_[ch][n];
            const float input = delta.times_u[ch] * b[n];
            if constexpr (kPrecise) {
              h += fmaf(h, expm1f(delta.itself[ch] * a_[ch][n]), input);  // a factor near 1 would round alike each time
            } else {
              h = fmaf(h, exp2_approx(delta.itself[ch] * a_[ch][n]), input);
            }
            y[ch][t] = fmaf(c[n], h, y[ch][t]);
          }
        }
      }
      const float2 sums{sum_lanes(y[0]), sum_lanes(y[1])};
      if (lane() < 4) *reinterpret_cast<float2*>(&shared_.y[buffer][first + lane()][kOwn * own()]) = sums;
    }
  }
  /// y[t], summed over the channel's lanes, in lane t.
  __device__ float sum_lanes(const float (&y)[4]) const {
    const bool odd = lane() % 2 != 0;
    const bool upper = lane() / 2 % 2 != 0;
    const float first = (odd ? y[1] : y[0]) + quad_xor(odd ? y[0] : y[1], 1);
    const float second = (odd ? y[3] : y[2]) + quad_xor(odd ? y[2] : y[3], 1);
    float sum = (upper ? second : first) + quad_xor(upper ? first : second, 2);
#pragma unroll
    for (int distance = 4; distance < kLanes; distance *= 2) sum += quad_xor(sum, distance);
    return sum;
  }

  __device__ void store(const Raw (&u)[kElements], const Raw (&z)[kElements], int first, int end, int buffer) const {
    if (!stages_) return;
    if (p_.y_type == ElementType::kBfloat16) {
      store_as<ElementType::kBfloat16>(u, z, first, end, buffer);
    } else if (p_.y_type == ElementType::kFloat32) {
      store_as<ElementType::kFloat32>(u, z, first, end, buffer);
    } else if (p_.y_type == ElementType::kFloat16) {
      store_as<ElementType::kFloat16>(u, z, first, end, buffer);
    } else {
      store_as<ElementType::kFloat64>(u, z, first, end, buffer);
    }
  }
  /// What is asked of a tile is asked once.
  template <ElementType kType>
  __device__ void store_as(const Raw (&u)[kElements], const Raw (&z)[kElements], int first, int end,
                           int buffer) const {
    const int left = min(end - first, kScanTokens);
    const bool has_z = p_.z.data != nullptr;
    if (left < kScanTokens) {
      store_rows<kType, false>(u, z, has_z, first, left, buffer);
    } else if (has_z) {
      store_rows<kType, true>(u, z, true, first, left, buffer);
    } else {
      store_rows<kType, true>(u, z, false, first, left, buffer);
    }
  }
  template <ElementType kType, bool kIsWhole>
  __device__ void store_rows(const Raw (&u)[kElements], const Raw (&z)[kElements], bool has_z, int first, int left,
                             int buffer) const {
    const auto row = static_cast<int>(p_.y_strides.row);
    std::int64_t at = y_begin_ + std::int64_t{first + token_of(0)} * row;
#pragma unroll
    for (int i = 0; i < kElements; ++i, at += kParts * row) {
      if (!kIsWhole && token_of(i) >= left) continue;
      float y = fmaf(d_, Source::value(u[i], p_.u.type), shared_.y[buffer][token_of(i)][threadIdx.x % kChannels]);
      if (has_z) y *= Math::silu(Source::value(z[i], p_.z.type));
      portable::store_element(p_.y, kType, at, y);
    }
  }

  __device__ void sum_deltas(int begin, int end) {
    constexpr int kAtOnce = 8;
    for (int token = begin + token_of(0); token < end && stages_; token += kAtOnce * kParts) {
      Raw raw[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        raw[i] = token + i * kParts < end ? delta_.load(delta_.token(token + i * kParts)) : Raw{0};
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const float delta = Math::softplus(Source::value(raw[i], p_.delta.type) + bias_);
        delta_sum_ += token + i * kParts < end ? delta : 0.0f;
      }
    }
    store_delta_sum();
  }
  __device__ void store_delta_sum() const {
    if (!stages_) return;
    const std::int64_t part = (batch_ * p_.num_segments + segment_) * kParts + threadIdx.x / kChannels;
    p_.delta_parts[part * p_.channels + staged_] = delta_sum_;
  }
  __device__ std::int64_t state_place(int ch, int n) const {
    return (batch_ * p_.channels + channel_ + ch) * p_.d_state + state_of(n);
  }
  __device__ void store_state() const {
    for_each_state([&](int ch, int n) {
      if (has(ch, n)) p_.h_out[state_place(ch, n)] = h_[ch][n];
    });
  }

  const ScanParams& p_;
  Shared& shared_;
  Source u_, delta_, z_;
  Source groups_[kGroupElements > 1 ? 2 : 1];  ///< of B and C, or of which this thread stages
  std::int64_t group_, segment_, batch_;
  std::int64_t y_begin_;  ///< place of token 0's output that this thread stores
  int tokens_;
  std::int64_t channel_;  ///< the first of those whose states this thread has
  std::int64_t staged_;   ///< whose inputs it brings
  bool exists_[kOwn], stages_;
  float bias_, d_;
  float a_[kOwn][kStates], h_[kOwn][kStates];
  float delta_sum_ = 0.0f;
};

template <int kLanes, bool kPrecise, ScanElements kElementsAre>
__global__ void __launch_bounds__(kScanThreads, kPrecise ? 1 : 2) scan_kernel(const __grid_constant__ ScanParams p) {
  using Block = ScanBlock<kLanes, kPrecise, kElementsAre>;
  __shared__ typename Block::Shared shared;
  Block(p, shared).run();
}

template <bool kPrecise, ScanElements kElementsAre>
void launch_scan(const ScanParams& p, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(p.blocks_per_group * p.num_groups * p.num_segments * p.batch);
  const int lanes = scan_lanes(p.d_state);
  if (lanes == 4) {
    scan_kernel<4, kPrecise, kElementsAre><<<blocks, kScanThreads, 0, stream>>>(p);
  } else if (lanes == 16) {
    scan_kernel<16, kPrecise, kElementsAre><<<blocks, kScanThreads, 0, stream>>>(p);
  } else {
    scan_kernel<32, kPrecise, kElementsAre><<<blocks, kScanThreads, 0, stream>>>(p);
  }
  check(cudaGetLastError());
}

}  // namespace ringscan::cuda
