#pragma once
// Synthetic inputs of the mechanisms that read their own: a selective scan, a Mamba block, a CHELA block.

#include <cstdint>
#include <string>
#include <vector>

#include "engine/synthetic_activations.hpp"
#include "io/activation_file.hpp"

namespace ringscan {

/// Taps of the short convolutions.
inline constexpr std::int64_t kSyntheticTaps = 4;

/// What a dataset's values are, from a standard normal n.
enum class SyntheticValues {
  kNormal,  ///< deviation * n
  kDelta,   ///< softplus^-1 of e^(log 0.01 + 0.8 n), kept in 0.001..0.1
  kA,       ///< -(1..d_state) in every row
  kALog,    ///< log(1..d_state)
};

struct SyntheticBlockDataset {
  std::string name;
  std::vector<std::int64_t> shape;
  SyntheticValues values = SyntheticValues::kNormal;
  double deviation = 1.0;
  bool is_parameter = false;  ///< no tokens: float32, written as a whole
};

/// ssm: heads * head_dim channels, kv_heads groups. mamba: d_model = heads * head_dim, d_inner twice that, the rank of
/// dt a sixteenth of it. chela: heads * head_dim channels, as many of V; the short kernel in two branches.
std::vector<SyntheticBlockDataset> synthetic_block_datasets(const SyntheticSpec& spec);

/// Elements [first, first + out.size()) of one of these datasets, row-major, before they are rounded to the file's
/// type.
/// @pre there is one of that name.
void fill_synthetic_block(const SyntheticSpec& spec, std::int64_t layer, const std::string& name, std::int64_t first,
                          std::span<float> out);

/// Collective. The datasets of one layer; `on_bytes` is told what has been written, over all ranks.
void write_synthetic_blocks(ActivationWriter& writer, const RankGroup& group, const SyntheticSpec& spec,
                            std::int64_t layer, const std::function<void(std::int64_t)>& on_bytes);

}  // namespace ringscan
