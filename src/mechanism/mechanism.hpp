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

using Mechanism = std::variant<SoftmaxParams, StickBreakingParams>;

/// "softmax", "stick-breaking": as on the command line.
std::string_view name_of(const Mechanism& mechanism);

/// The keys a query of this mechanism may see.
Band band_of(const SoftmaxParams& params);
Band band_of(const StickBreakingParams& params);
Band band_of(const Mechanism& mechanism);

/// True where partial results must be joined in the order of their keys.
bool is_ordered(const Mechanism& mechanism);

}  // namespace ringscan
