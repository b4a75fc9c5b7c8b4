#pragma once
// Checks a CHELA layer's output against the float64 oracle.

#include <cstdint>
#include <optional>
#include <span>

#include "engine/chela_layer.hpp"
#include "engine/verify.hpp"

namespace ringscan {

struct ChelaCheckTask {
  const ChelaLayer* layer = nullptr;
  double scale = 1.0;
  ActivationReader* input = nullptr;
  ActivationReader* initial = nullptr;  ///< as in the run; nullptr: the sequence begins here
  ActivationReader* output = nullptr;
  std::span<const std::int64_t> rows;  ///< tokens to check, ascending, of every batch item
  std::vector<int> heads;              ///< in a hybrid: those of the layer's `o` that hold y; empty: chela/y
  double bound = 1e-5;
};

/// Collective; the check is the same on every rank. A row is a token of a batch item; its error is the largest over the
/// channels, relative to the largest |y| of the oracle among the rows checked. Heads are dealt to the ranks: each
/// streams the whole sequence through its heads' recurrence and holds Z of one head, seq_len * head_dim doubles. Where
/// the output holds state/chela/S, a second check has its error for each head, relative to the head's largest element.
std::vector<DatasetCheck> check_chela_layer(const ChelaCheckTask& task, RankGroup& group);

}  // namespace ringscan
