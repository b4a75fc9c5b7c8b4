#pragma once
// What `analyze` asks of a head's scores, beside the mechanisms themselves: how far a stick reaches, and how much of
// the softmax mass the strongest, or the nearest, keys of a row hold. Tasks are AttendTasks whose v is not looked at
// (any view of the keys' tokens and heads with dim 1).

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/buffer.hpp"
#include "core/tensor_view.hpp"
#include "kernels/kernels.hpp"
#include "mechanism/mechanism.hpp"

namespace ringscan {

/// A row's reach for epsilon: the number of keys j < i it meets, near first, until its stick is under epsilon; all its
/// keys where that never happens.
struct ReachParams {
  std::vector<double> epsilons;  ///< one to kMost, each over 0 and under 1
  static constexpr std::size_t kMost = 4;
};
inline Band band_of(const ReachParams&) {
  return {1, Band::kUnbounded};
}

/// The rows of a run of queries, as far as they have met their keys; opaque but to the backend.
struct ReachBlock {
  PartialShape shape;
  std::size_t num_epsilons = 0;
  Buffer log2_stick;
  Buffer keys;
  Buffer done;
};

/// Kept mass of a row at exponent C: the share of sum_j e^(z_ij), j <= i, that ceil(n^C) of its n = i + 1 keys hold:
/// the strongest (kTopk) or the nearest (kWindow).
struct MassParams {
  SparseSelect select = SparseSelect::kTopk;
  std::vector<double> exponents;  ///< ascending, each in (0, 1]; at most kMost
  static constexpr std::size_t kMost = 255;
};
inline Band band_of(const MassParams&) {
  return {0, Band::kUnbounded};
}

/// Mass of each row in bins of weight (kTopk: eighths of an octave of e^(z - lse)) or of distance (kWindow: cut at the
/// exponents), 2 KiB a row; opaque but to the backend.
struct MassBlock {
  PartialShape shape;
  TensorView<const float> lse;  ///< [batch, rows, any heads, 1] by q_head: of all keys of each row; borrowed
  Buffer mass;
  Buffer count;
  Buffer walk;
};

/// Sums over rows of what is surely kept at each exponent, and at most kept: [slots][exponents]. Only kTopk's differ,
/// by the one bin that the last kept key stands in.
struct KeptMass {
  std::vector<double> low;
  std::vector<double> high;
};

/// Keys that a row of n keys keeps: ceil(n^exponent), as n^C-sparse attention counts them.
std::int64_t keys_kept(std::int64_t n, double exponent);

class MeasureKernels {
 public:
  virtual ~MeasureKernels() = default;

  /// Blocks that have met no key, and the bytes one takes. `shape.v_dim` is not looked at.
  virtual void make(ReachBlock& block, const PartialShape& shape, const ReachParams& params,
                    MemoryLedger* ledger) const = 0;
  virtual void make(MassBlock& block, const PartialShape& shape, const MassParams& params,
                    MemoryLedger* ledger) const = 0;
  virtual std::size_t block_bytes(const PartialShape& shape, const ReachParams& params) const = 0;
  virtual std::size_t block_bytes(const PartialShape& shape, const MassParams& params) const = 0;

  /// As Kernels::attend(). For reach, and for mass under kWindow, the block's keys so far end where task.key_run ends.
  /// @pre task.band is band_of(params), and task.v is one element wide.
  virtual AttendStats attend(const AttendTask& task, const ReachParams& params, ReachBlock& block,
                             Heartbeat& heartbeat) const = 0;
  virtual AttendStats attend(const AttendTask& task, const MassParams& params, MassBlock& block,
                             Heartbeat& heartbeat) const = 0;

  /// True where all sticks are under all epsilons.
  virtual bool all_done(const ReachBlock& block) const = 0;

  /// Appends to `keys` the reach of the slot's rows, all batch items; returns how many never came under epsilon.
  virtual std::int64_t read(const ReachBlock& block, std::int64_t slot, const ReachParams& params, std::size_t epsilon,
                            std::vector<std::int64_t>& keys) const = 0;
  /// Adds the rows' kept mass to `sums`, which has room for [slots][exponents].
  virtual void add_kept(const MassBlock& block, const TokenRun& query_run, const MassParams& params,
                        KeptMass& sums) const = 0;
};

/// SIMD on the CPU (Highway), as make_cpu_kernels().
std::unique_ptr<MeasureKernels> make_cpu_measure_kernels();

}  // namespace ringscan
