#pragma once
// The parameters of each mechanism, as plain structs in a variant that is visited once a head group.

#include <cstdint>
#include <string_view>
#include <variant>

#include "mechanism/band.hpp"

namespace ringscan {

/// o_i = softmax_j(z_ij) v_j over the visible keys; lse_i = log sum_j e^(z_ij).
struct SoftmaxParams {
  bool causal = true;
  std::int64_t window = 0;  ///< w > 0: only i - j < w (and, without causal, j - i < w); 0: all
  friend bool operator==(const SoftmaxParams&, const SoftmaxParams&) = default;
};

/// What becomes of the stick that no key took: nothing, remainder_i v_i, or remainder_i b_h.
enum class RemainderPolicy { kDrop, kValue, kVector };

/// A_ij = sigma(z_ij) prod_{j<l<i} (1 - sigma(z_il)) over j < i (j <= i with attend_current); arXiv 2410.17980.
struct StickBreakingParams {
  bool attend_current = false;
  RemainderPolicy remainder = RemainderPolicy::kDrop;
  double epsilon = 0x1p-24;  ///< a row is done once less than this of its stick is left; 0: never
  friend bool operator==(const StickBreakingParams&, const StickBreakingParams&) = default;
};

/// w_ij = sign(z_ij) softmax_j(|z_ij|), o_i = sum_j w_ij v_j; lse of |z|. A key with z = 0 has weight 0 and counts in
/// the denominator; arXiv 2411.07176.
struct CogParams {
  bool causal = true;
  friend bool operator==(const CogParams&, const CogParams&) = default;
};

/// Which of the keys it sees a row keeps: the k nearest, or the k of the largest z (ties to the nearer key).
enum class SparseSelect { kWindow, kTopk };
/// What the number of kept keys grows with: the keys a row sees (i + 1), or the whole sequence for every row.
enum class SparseCount { kVisible, kTotal };

/// Softmax over k_i = min(i + 1, max(min_keys, ceil(alpha n_i^exponent))) of a row's keys; arXiv 2404.02690.
struct SparseParams {
  SparseSelect select = SparseSelect::kTopk;
  double alpha = 1.0;
  double exponent = 0.7;  ///< in (0, 1]
  std::int64_t min_keys = 1;
  SparseCount count = SparseCount::kVisible;
  friend bool operator==(const SparseParams&, const SparseParams&) = default;
};

enum class Decay { kNone, kHead, kToken };
enum class FeatureMap { kIdentity, kElu1 };
enum class Normalizer { kNone, kZ };

/// S_t = e^(g_t) S_(t-1) + k_t v_t^T;  o_t = (scale q_t)^T S_t, after the update; with Normalizer::kZ divided by
/// <scale q_t, n_t> + 1e-10, n_t = e^(g_t) n_(t-1) + k_t. The feature map acts on q and k first.
struct LinearParams {
  Decay decay = Decay::kNone;
  FeatureMap feature_map = FeatureMap::kIdentity;
  Normalizer normalizer = Normalizer::kNone;
  friend bool operator==(const LinearParams&, const LinearParams&) = default;
};

/// The selective scan (Mamba-1); all it needs is in the file. And the whole Mamba block around it.
struct SsmParams {
  friend bool operator==(const SsmParams&, const SsmParams&) = default;
};
struct MambaParams {
  friend bool operator==(const MambaParams&, const MambaParams&) = default;
};

/// Short and long convolutions around linear attention, as docs/mechanisms.md reads the paper (arXiv 2406.08128).
struct ChelaParams {
  std::int64_t heads = 0;  ///< of its linear attention; 0: one for every 64 channels where that divides, else one
  friend bool operator==(const ChelaParams&, const ChelaParams&) = default;
};

/// Mechanisms that read inputs of their own instead of q, k, v.
using BlockMechanism = std::variant<SsmParams, MambaParams, ChelaParams>;

/// "ssm", "mamba", "chela".
std::string_view name_of(const BlockMechanism& mechanism);

/// Two families: keys and values go round a ring, or (linear attention) a state is carried along the ranks by a scan.
using Mechanism = std::variant<SoftmaxParams, StickBreakingParams, CogParams, SparseParams, LinearParams>;

/// "softmax", "stick-breaking", ...: as on the command line.
std::string_view name_of(const Mechanism& mechanism);

/// The keys a query of this mechanism may see.
Band band_of(const SoftmaxParams& params);
Band band_of(const StickBreakingParams& params);
Band band_of(const CogParams& params);
/// Keys up to the query: which of them are kept, GrowingWindow and the scores say.
Band band_of(const SparseParams& params);
/// A token's state holds itself and all before it.
Band band_of(const LinearParams& params);
Band band_of(const Mechanism& mechanism);

/// True where the row's statistic is lse (softmax, cog, sparse: of the kept keys).
bool has_lse(const Mechanism& mechanism);
/// True where it is the remainder (stick-breaking).
bool has_remainder(const Mechanism& mechanism);

/// True where a state is carried along the ranks, and no keys go round.
bool carries_state(const Mechanism& mechanism);

/// True where partial results must be joined in the order of their keys.
bool is_ordered(const Mechanism& mechanism);

}  // namespace ringscan
