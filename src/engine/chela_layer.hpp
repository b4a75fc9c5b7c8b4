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
/// @throws Error(kBadInput, collective) on NaN or infinity, where that is checked.
ChelaWeights read_chela_weights(ActivationReader& reader, const ChelaLayer& layer, bool check_finite);

/// Where a layer's results go.
struct ChelaOutput {
  DatasetInfo y;             ///< chela/y [batch, seq, channels]; in a hybrid the layer's o
  std::vector<int> y_heads;  ///< places in y's third dimension that are filled
  DatasetInfo short_inputs;  ///< state/chela/short_inputs and long_inputs, [batch, width - 1, channels] float32: the
  DatasetInfo long_inputs;   ///< last inputs of each convolution; left out for width 1
  DatasetInfo state;         ///< state/chela/S [batch, heads, head_dim, v_dim] float64
};

/// Collective. `o` and `heads`: the slots of a hybrid; null: the layer has an output of its own.
ChelaOutput create_chela_output(ActivationWriter& writer, const ChelaLayer& layer, const DatasetInfo* o,
                                const std::vector<int>& heads, bool writes_state);

struct ChelaLayerTask {
  const ChelaLayer* layer = nullptr;
  const SequenceLayout* layout = nullptr;  ///< contiguous, of layer->seq_len
  double scale = 1.0;
  bool reproducible = false;
  bool check_finite = true;
  ActivationReader* reader = nullptr;
  ActivationReader* initial = nullptr;  ///< a file with the layer's state/chela; nullptr: the sequence begins here
  ActivationWriter* writer = nullptr;
  const ChelaOutput* output = nullptr;
  bool writes_state = false;
};

struct ChelaLayerFigures {
  ChelaPassResult pass;
  double read_seconds = 0.0;   ///< waiting for the file
  double write_seconds = 0.0;  ///< likewise
};

/// Collective: reads, computes and writes y, and the state where wanted. A later run goes on from it with kernels of
/// the same widths.
/// @throws Error(kBadInput, collective) where `initial` holds no such state.
ChelaLayerFigures run_chela_layer(const ChelaLayerTask& task, Transport& transport, const ChelaBackend& backend,
                                  MemoryLedger* ledger, Heartbeat& heartbeat);

/// What run_chela_layer() takes on any rank: shards and parameters, rounded outputs, the pass and its states, scratch.
struct ChelaLayerBytes {
  std::size_t input = 0;
  std::size_t output = 0;
  std::size_t pass = 0;
  std::size_t scratch = 0;
};
ChelaLayerBytes chela_layer_bytes(const ChelaLayer& layer, ElementType file_type, const SequenceLayout& layout,
                                  bool reproducible, bool has_initial, bool writes_state, const ChelaBackend& backend);

}  // namespace ringscan
