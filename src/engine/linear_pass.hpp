#pragma once
// The heads of linear attention: each rank goes over its own tokens, a scan over the ranks brings it the state that
// stands before them. Knows no files and no backend.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/scan_schedule.hpp"
#include "comm/transport.hpp"
#include "core/tensor_view.hpp"
#include "engine/ring_pass.hpp"
#include "kernels/linear_kernels.hpp"
#include "sequence/sequence_layout.hpp"

namespace ringscan {

/// Which slots share a state: as many as the kernels want, in order.
class StateGroups {
 public:
  StateGroups(std::size_t slots, const LinearKernels& kernels) : slots_(slots), a_state_(kernels.slots_a_state()) {}

  std::size_t count() const { return (slots_ + a_state_ - 1) / a_state_; }
  std::size_t begin(std::size_t group) const { return group * a_state_; }
  std::size_t size(std::size_t group) const { return std::min(a_state_, slots_ - begin(group)); }
  std::size_t group_of(std::size_t slot) const { return slot / a_state_; }
  std::int64_t place_of(std::size_t slot) const { return static_cast<std::int64_t>(slot % a_state_); }

  /// The group's share of what `all` has for each slot.
  template <typename T>
  std::span<const T> of(std::size_t group, std::span<const T> all) const {
    return all.subspan(begin(group), size(group));
  }
  /// One state a group, at the identity, of `shape` but for the slots.
  std::vector<LinearState> make_states(LinearShape shape, const LinearKernels& kernels, MemoryLedger* ledger) const;

 private:
  std::size_t slots_;
  std::size_t a_state_;
};

/// A rank's share. Views are [batch, local tokens, heads, dim], tokens in the order of the layout; `slots` index the
/// heads of q, o (q_head) and of k, v (kv_head).
struct LinearPassTask {
  const SequenceLayout* layout = nullptr;  ///< contiguous
  LinearParams params;
  double scale = 1.0;
  AnyView q;
  AnyView k;
  AnyView v;
  std::span<const HeadSlot> slots;
  AnyView log_decay;                       ///< Decay::kToken: [batch, local tokens, any columns, 1]
  std::span<const int> decay_columns;      ///< Decay::kToken: one a slot
  std::span<const double> head_log_decay;  ///< Decay::kHead: one a slot
  MutableAnyView o;
  /// The same bits for every number of ranks: states are carried from rank to rank one after the other, state by state.
  /// @pre then the layout's tile is a multiple of kLinearChunk.
  bool reproducible = false;
  /// What stands before the first token, one state a group of StateGroups; empty: nothing.
  std::span<const LinearState> initial;
  /// Where not null, gets what stands behind the last token, one state a group, on rank state_owner() alone.
  std::vector<LinearState>* final_states = nullptr;
};

/// The rank that holds the last token (0 where there is none).
int state_owner(const SequenceLayout& layout);

/// States that the pass holds, of one slot each, for `slots` slots; without the initial ones, and kMostDirectBytes of a
/// device.
constexpr std::size_t linear_pass_states(std::size_t slots, bool reproducible) {
  return slots * (reproducible ? 1 : 3);
}

/// What a rank receives at most of one group where all states are sent at once.
inline constexpr std::size_t kMostDirectBytes = std::size_t{16} << 20;

/// How states of `state_bytes` each (of a group) go over the ranks that have tokens. `by_device`: the transport carries
/// them in the order of the kernels' queue, where each doubling costs a launch and a look from the host.
ScanKind linear_scan_kind(bool reproducible, bool by_device, int ranks, std::size_t state_bytes);

/// Collective. Default: every rank but the last sums up its tokens into a state, which costs a quarter of the output or
/// so; while heads are summed up, and then output, the scans of others go on. Where kernels keep summaries the last
/// rank makes one, too, while it would wait, and no output repeats it. Where the transport carries the states in the
/// order of the kernels' queue, the queue waits for them and the host does not; few and small ones then go to all ranks
/// behind at once. Communication a rank and head: ceil(log2 P) states sent at most, or P - 1 at once. Reproducible: 1
/// state sent; rank r begins when rank r - 1 is done with the first state.
RingPassResult run_linear_pass(const LinearPassTask& task, Transport& transport, const LinearKernels& kernels,
                               MemoryLedger* ledger, const PassProgress& on_progress = {});

}  // namespace ringscan
