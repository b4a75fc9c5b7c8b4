#pragma once
// Linear heads against the oracle: the recurrence, which cannot begin in the middle, goes once over the whole sequence.

#include <optional>
#include <vector>

#include "engine/linear_layer.hpp"
#include "engine/verify_head.hpp"

namespace ringscan {

/// What the linear heads of a layer have beside q, k, v and o.
struct LinearFiles {
  LinearParams params;
  std::vector<double> head_log_decay;    ///< one a linear head
  std::vector<int> heads;                ///< of the layer, ascending
  std::optional<DatasetInfo> log_decay;  ///< Decay::kToken
  LinearStates initial;                  ///< empty: none
  std::optional<DatasetInfo> state;      ///< S in the output, where it has it
  std::optional<DatasetInfo> state_n;    ///< n likewise
};

/// Collective. `initial` may be null.
LinearFiles open_linear_files(const LayerFiles& files, ActivationReader* initial, const RunConfig& config);

/// Not collective. Errors of o are relative to the largest |v| of the head or, where it is larger, the row's largest
/// |o| (without decay an output grows with the sequence); `statistic` has one entry where the output has a state: the
/// larger of the errors of S and n, each relative to its largest element.
HeadErrors check_linear_head(const LayerFiles& files, const LinearFiles& linear, const HeadTask& task);

}  // namespace ringscan
