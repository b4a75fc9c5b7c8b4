#pragma once

#include "engine/ring_pass.hpp"

namespace ringscan {

/// Collective: run_ring_pass() of n^C-sparse attention.
///
/// window: one journey of the keys, as long as the first row of each shard reaches back.
/// topk: journeys of the keys alone, each a round of the search for every row's k-th largest score, until all rows of
/// all ranks are exact; then one of keys and values. Queries stay, so counts never move between ranks.
/// kept_mass takes the weights of all keys: top-k sums them in its first round, a window takes a journey for it.
RingPassResult run_sparse_pass(const RingPassTask& task, const SparseParams& params, Transport& transport,
                               Kernels& kernels, MemoryLedger* ledger, const PassProgress& on_progress);

/// Journeys that a search is planned with; what it takes depends on the scores (and is at most 11).
inline constexpr int kTypicalSearchRounds = 3;

}  // namespace ringscan
