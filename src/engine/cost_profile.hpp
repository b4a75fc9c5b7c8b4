#pragma once
// What computing, moving and reading cost on a machine, as `bench profile` measures it and `plan` reads it: a small
// JSON file.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/element_type.hpp"
#include "mechanism/mechanism.hpp"

namespace ringscan {

/// What a call took that the fit gives so many seconds, by these: rates depend on how much is done at once, since
/// caches end and GPUs fill.
struct SizeCorrection {
  double call_seconds = 0.0;
  double ratio = 1.0;
};

/// A pass's kernel: seconds = calls x call + rows x row + pairs x pair, where rows are query rows of a head that meet
/// keys in a call (linear: tokens of a head) and pairs the visible ones whose score is computed.
struct KernelCost {
  std::string mechanism;  ///< profile_name_of()
  ElementType dtype = ElementType::kFloat32;
  std::int64_t head_dim = 0;
  int at_once = 1;  ///< ranks that computed at once on the node when it was measured
  double call_seconds = 0.0;
  double row_seconds = 0.0;
  double pair_seconds = 0.0;
  double pass_seconds = 0.0;                     ///< of a pass, beside its kernels
  double finish_row_seconds = 0.0;               ///< a row of a head, beside the kernels: rounded and written
  double state_row_seconds = 0.0;                ///< linear: a token of a head summed up into a state
  double worst_fit = 0.0;                        ///< largest relative error of the fit, before it is corrected
  std::vector<SizeCorrection> corrections;       ///< ascending; empty: none
  std::vector<SizeCorrection> exit_corrections;  ///< likewise, where stick-breaking exits early
  std::vector<SizeCorrection> rest_corrections;  ///< of what a pass takes beside its kernels

  /// `seconds` of so many calls, corrected: the ratio between measured sizes by the logarithm, at the ends as there.
  double corrected(double seconds, double calls, bool exits_early = false) const;
  /// What a pass takes beside its kernels, for so many rows of heads; corrected.
  double rest_seconds(double rows) const;
};

/// A block mechanism (ssm, mamba, chela), of so many channels: a rank that has the whole sequence takes
/// call + tokens x row seconds, corrected by size; the rest is what comes to it where others have earlier or later
/// tokens.
struct BlockCost {
  /// head_dim: channels of the output; rows: tokens, all channels of each; state_row_seconds: a token more on ranks
  /// whose state goes on to later ones.
  KernelCost token;
  std::int64_t states = 0;            ///< ssm, mamba: of a channel; chela: 0
  std::int64_t taps = 0;              ///< chela: of the long kernel; ssm, mamba: 0
  double behind = 0.0;                ///< share of it that waits for the state from earlier ranks
  double incoming_row_seconds = 0.0;  ///< a token more that this state reaches
  double incoming_rows = 0.0;         ///< as many tokens it reaches at most
  double lines_row_seconds = 0.0;     ///< chela: a token, all of it, where the long convolution goes by all-to-all
};

/// A link between two ranks: seconds = latency + bytes / rate. Of these the share `hidden` goes on while a rank
/// computes; the rest takes the rank's own time (a copy by its processor).
struct LinkCost {
  double latency_seconds = 0.0;
  double bytes_per_second = 0.0;  ///< each way, where ranks send and receive at once, as in a ring
  double hidden = 1.0;
  double one_way_bytes_per_second =
      0.0;  ///< where the sender receives nothing and the receiver sends nothing; 0: as above

  double seconds(double bytes) const { return latency_seconds + bytes / bytes_per_second; }
  /// The link as such a pair finds it.
  LinkCost one_way() const {
    const double rate = one_way_bytes_per_second > 0.0 ? one_way_bytes_per_second : bytes_per_second;
    return {latency_seconds, rate, hidden, rate};
  }
};

struct CostProfile {
  std::string backend;  ///< "cpu", "cuda"
  std::string device;
  int cores = 1;                   ///< processors (cpu) or GPUs (cuda) of a node: more ranks share them
  std::int64_t piece_keys = 8192;  ///< Kernels::piece_keys()
  double exit_tile = 64.0;         ///< rows and keys of a tile, as early exit sees them
  double pack_bytes_per_second =
      0;  ///< of keys and values on their way out, with the ring's buffers made; 0: not measured
  bool sends_from_shard = false;     ///< where all KV heads of a shard travel at once, they are not packed
  double memory_bytes = 0.0;         ///< that a rank had; 0: not known
  std::optional<LinkCost> inside;    ///< between ranks of a node; none: measured by one rank
  std::optional<LinkCost> between;   ///< between nodes, one flow through one NIC
  double read_bytes_per_second = 0;  ///< of all ranks together; 0: not measured
  double write_bytes_per_second = 0;
  int linear_heads_a_state = 1;         ///< LinearKernels::slots_a_state(); a call of `kernels` is of one state
  bool linear_keeps_summaries = false;  ///< LinearKernels::keeps_summaries()
  std::vector<KernelCost> kernels;
  std::vector<BlockCost> blocks;

  /// The cost measured with the most ranks at once that are no more than `at_once`; else with the fewest.
  /// @throws Error(kBadInput) where there is none for these; it names what there is.
  const KernelCost& kernel(std::string_view mechanism, ElementType dtype, std::int64_t head_dim, int at_once) const;

  /// Likewise of a block with so many channels, states (chela: 0) and taps (ssm, mamba: 0).
  const BlockCost& block(std::string_view mechanism, ElementType dtype, std::int64_t channels, std::int64_t states,
                         std::int64_t taps, int at_once) const;
};

/// name_of(), and for sparse which kind: "sparse-window", "sparse-topk".
std::string profile_name_of(const Mechanism& mechanism);

std::string to_json(const CostProfile& profile);
/// @throws Error(kBadInput) on anything that to_json() would not write; `source` names the text.
CostProfile parse_cost_profile(const std::string& text, const std::string& source);

/// A measured point of a kernel, to fit a cost to.
struct KernelPoint {
  double calls = 0.0;
  double rows = 0.0;
  double pairs = 0.0;
  double seconds = 0.0;
};

/// The least squares of relative errors, coefficients >= 0; fills call, row and pair seconds and worst_fit.
/// @pre points with seconds > 0.
void fit_kernel_cost(const std::vector<KernelPoint>& points, KernelCost& cost);

}  // namespace ringscan
