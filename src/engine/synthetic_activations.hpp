#pragma once
// Activations made from a seed: every element is a function of its place in the dataset, so that a file is the same
// bit for bit for any number of ranks.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "core/element_type.hpp"
#include "io/file_access.hpp"

namespace ringscan {

enum class SyntheticKind {
  kNormal,     ///< q, k and v standard normal
  kLongStick,  ///< v standard normal; scores of mean -12 and deviation 1.5, so that a stick outlasts 10^5 keys
  kSsm,        ///< inputs of a selective scan instead of q, k and v
  kMamba,      ///< a Mamba block's input and parameters instead
  kChela,      ///< a CHELA block's
};

std::string_view name_of(SyntheticKind kind);

/// What the inputs of block mechanisms have beside tokens and channels.
struct SyntheticBlockSizes {
  std::int64_t states = 16;  ///< ssm, mamba: of a channel
  std::int64_t taps = 4096;  ///< of CHELA's long kernel, where the sequence is no shorter
};

struct SyntheticSpec {
  std::int64_t batch = 1;
  std::int64_t seq_len = 0;
  std::int64_t num_heads = 8;
  std::int64_t num_kv_heads = 8;
  std::int64_t head_dim = 64;
  std::int64_t v_dim = 64;
  std::int64_t num_layers = 1;
  ElementType dtype = ElementType::kFloat32;
  std::uint64_t seed = 0;
  SyntheticKind kind = SyntheticKind::kNormal;
  std::int64_t num_linear_heads = 0;  ///< columns of log_decay; 0: no such dataset
  SyntheticBlockSizes sizes;

  /// True where the kind has other inputs than q, k and v.
  bool is_block() const;
  /// Of the whole file.
  std::int64_t payload_bytes() const;
};

/// kLogDecay: -0.05 times a standard normal number's square, so that most tokens decay little and some much.
enum class SyntheticDataset { kQ, kK, kV, kLogDecay };

/// Writes the elements [first, first + out.size()) of a layer's dataset, counted in row-major order over
/// [batch, seq, heads, dim], before they are rounded to the file's type.
void fill_synthetic(const SyntheticSpec& spec, std::int64_t layer, SyntheticDataset dataset, std::int64_t first,
                    std::span<float> out);

/// As many of a tensor in memory differ before they repeat: drawing a million tokens' takes minutes on one core. Odd,
/// so that tokens do not repeat with it.
inline constexpr std::size_t kDistinctSyntheticValues = (std::size_t{1} << 22) - 3;

/// Standard normal values: elements [first, first + out.size()) of a stream that seed, layer and number tell apart.
void fill_normal(std::uint64_t seed, std::int64_t layer, int stream, std::int64_t first, std::span<float> out);

/// Collective. Writes /layers/0, /layers/1, ... with q, k, v and (with linear heads) log_decay, or what else the kind
/// has, each rank its share of the tokens in slabs of bounded size; `on_progress` is told the share done (0 to 1) after
/// each.
/// @throws Error(kBadInput) as ActivationWriter does.
void write_synthetic(FileAccess& access, const SyntheticSpec& spec, const std::string& path, bool overwrite,
                     const std::function<void(double)>& on_progress);

}  // namespace ringscan
