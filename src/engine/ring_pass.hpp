#pragma once
// One head group goes round the ring: the centre of the program. Knows no files and no backend.

#include <cstdint>
#include <functional>
#include <span>

#include "comm/transport.hpp"
#include "core/tensor_view.hpp"
#include "engine/context_keys.hpp"
#include "engine/near_keys.hpp"
#include "engine/ring_pass_result.hpp"
#include "kernels/kernels.hpp"
#include "mechanism/mechanism.hpp"
#include "sequence/sequence_layout.hpp"

namespace ringscan {

/// A rank's share of one pass over one head group. Views are [batch, local tokens, heads, dim], tokens in the order of
/// the layout; `slots` index the heads of q, o, statistic (q_head) and of k, v (kv_head). All views are dense, and lie
/// in the kernels' memory().
struct RingPassTask {
  const SequenceLayout* layout = nullptr;
  Mechanism mechanism;
  double scale = 1.0;
  std::int64_t key_block = 512;
  std::int64_t piece_keys = 8192;  ///< the kernels' (piece_keys())
  AnyView q;
  AnyView k;
  AnyView v;
  std::span<const HeadSlot> slots;
  MutableAnyView o;
  TensorView<float> statistic;     ///< lse or remainder, dim 1; data == nullptr: not wanted
  bool wants_kept_mass = false;    ///< the same on every rank; sparse alone heeds it
  TensorView<float> kept_mass;     ///< sparse, dim 1, where wanted
  AnyView remainder_value;         ///< [1, 1, heads, v_dim] by q_head, for RemainderPolicy::kVector
  StickLengths* sticks = nullptr;  ///< of the passes before; null: nothing is known
  ContextKeys* context = nullptr;  ///< keys before the layout's first token; null: none. @pre causal mechanisms

  // Kernels know positions: the context's keys end where the layout's token 0 stands, on the grid of key
  // blocks, so that bits do not depend on where shards begin.
  std::int64_t context_tokens() const { return context != nullptr ? context->tokens() : 0; }
  std::int64_t origin() const { return ceil_div(context_tokens(), key_block) * key_block; }
  std::int64_t first_position() const { return origin() - context_tokens(); }
  TokenRun positions(const TokenRun& run) const { return {run.begin + origin(), run.end + origin()}; }
  TokenRun context_positions(const TokenRun& run) const {
    return {run.begin + first_position(), run.end + first_position()};
  }
};

/// Told which share of this pass's work is behind this rank, 0 to 1.
using PassProgress = std::function<void(double)>;

/// Collective. Stick-breaking with early exit, contiguous: each rank first hands on its nearest keys alone, and where
/// all sticks have ended there no shard moves. Exact top-k goes round more than once: a pass of keys alone for each
/// round of the search, then one of keys and values. Behind each round every rank meets the context's blocks, near
/// first: no farther than a window of the first token reaches, and for stick-breaking until every row of every rank is
/// done. Memory: two KV buffers of the largest shard (none where no KV moves) and one accumulator a query chunk
/// (kOpenPartsZigzagOrdered for an ordered mechanism's late chunk under zigzag), counted in `ledger`.
RingPassResult run_ring_pass(const RingPassTask& task, Transport& transport, Kernels& kernels, MemoryLedger* ledger,
                             const PassProgress& on_progress = {});

}  // namespace ringscan
