#pragma once
// A CHELA layer between file and engine: /layers/<name>/chela/... in, chela/y and state/chela/... out.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/chela_pass.hpp"
#include "io/activation_file.hpp"

namespace ringscan {

struct ChelaLayer {
  std::string name;
  std::int64_t batch = 0;
  std::int64_t seq_len = 0;
  ChelaShape shape;
  ElementType x_type = ElementType::kFloat32;  ///< in memory
  ElementType y_type = ElementType::kFloat32;
};

/// One head for every 64 channels where that divides both channels and v_channels, else one.
std::int64_t default_chela_heads(std::int64_t channels, std::int64_t v_channels);

/// Shapes and types, checked against each other. `num_heads`: 0 for default_chela_heads(). A convolution is one dataset
/// [channels, width] or branches /0, /1, ... of any widths; the widest counts.
/// @throws Error(kBadInput) naming file, dataset, what was found and what is wanted.
ChelaLayer inspect_chela_layer(const ActivationReader& reader, const std::string& layer, std::int64_t num_heads,
                               std::optional<ElementType> output_dtype);

/// Taps [channels, width] of parallel branches, each [channels, its width]: their sum, the shorter ones padded with
/// zeros at the far end.
std::vector<float> fold_branches(const std::vector<std::vector<double>>& branches, std::int64_t channels);

/// Collective. Parameters as float32, branches folded, matrices transposed.
ChelaWeights read_chela_weights(ActivationReader& reader, const ChelaLayer& layer);

struct ChelaLayerTask {
  const ChelaLayer* layer = nullptr;
  const SequenceLayout* layout = nullptr;  ///< contiguous, of layer->seq_len
  double scale = 1.0;
  bool reproducible = false;
  bool check_finite = true;
  ActivationReader* reader = nullptr;
  ActivationReader* initial = nullptr;  ///< a file with the layer's state/chela; nullptr: the sequence begins here
  ActivationWriter* writer = nullptr;
  bool writes_state = false;
};

/// Collective: reads, computes and writes chela/y, and the state where wanted: state/chela/short_inputs and
/// long_inputs, the last width - 1 inputs of each convolution [batch, width - 1, channels] float32 (left out for width
/// 1), and state/chela/S [batch, heads, head_dim, v_dim] float64. A later run goes on from it with kernels of the same
/// widths.
/// @throws Error(kBadInput) where `initial` holds no such state.
ChelaPassResult run_chela_layer(const ChelaLayerTask& task, Transport& transport, const ChelaBackend& backend,
                                MemoryLedger* ledger, Heartbeat& heartbeat);

}  // namespace ringscan
