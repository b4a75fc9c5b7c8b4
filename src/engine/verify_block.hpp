#pragma once
// Checks the output of a block mechanism against its float64 oracle.

#include <vector>

#include "engine/run_config.hpp"
#include "engine/verify.hpp"
#include "io/activation_file.hpp"

namespace ringscan {

/// The files that stand behind an output.
struct BlockFiles {
  ActivationReader* input = nullptr;
  ActivationReader* output = nullptr;
  ActivationReader* initial_state = nullptr;  ///< of --initial-state; nullptr: none
};

/// Collective. One check a block mechanism of the layer, and one for each dataset of its state that the output holds
/// (of CHELA's: S), relative to its largest element; the same on every rank: rows are tokens of a batch item, sampled
/// like a head's; the error is the largest over the channels, relative to max|y| over the item's sampled rows. A scan
/// has to go through every token before a row; the ranks share its channels (ssm) or batch items (mamba).
std::vector<DatasetCheck> verify_blocks(const VerifyRequest& request, const RunConfig& config, const std::string& layer,
                                        const BlockFiles& files, RankGroup& group);

}  // namespace ringscan
