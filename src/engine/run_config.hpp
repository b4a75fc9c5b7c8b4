#pragma once
// What a user asked for: the options of `run`, by their command-line names.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/element_type.hpp"
#include "mechanism/mechanism.hpp"
#include "sequence/sequence_layout.hpp"

namespace ringscan {

/// Some heads and the mechanism they have. `heads` is empty where one mechanism has them all.
struct HeadAssignment {
  Mechanism mechanism;
  std::vector<int> heads;
};

/// A mechanism with inputs of its own, and the heads of `o` its output goes to; none: the whole layer, with an output
/// of its own.
struct BlockAssignment {
  BlockMechanism mechanism;
  std::vector<int> heads;
};

/// Progress shown while running: a bar on a terminal and plain lines elsewhere (auto), always, or not at all.
enum class ProgressMode { kAuto, kOn, kOff };

struct RunConfig {
  std::string input;
  std::string output;
  std::string layers = "*";  ///< a glob on group names

  std::string backend = "auto";             ///< auto | cpu | cuda
  std::vector<HeadAssignment> assignments;  ///< at least one of these, or of the next
  std::vector<BlockAssignment> blocks;
  std::optional<double> scale;       ///< default 1/sqrt(head_dim)
  std::optional<LayoutKind> layout;  ///< none: auto
  bool reproducible = false;         ///< same bits for every number of ranks

  bool want_lse = false;
  bool want_remainder = false;
  bool want_kept_mass = false;
  bool want_state = false;                  ///< what a later run goes on from
  std::string initial_state;                ///< a file with what an earlier one left; empty: none
  std::vector<std::string> context;         ///< files whose keys come before the first token, earliest first
  std::optional<double> linear_scale;       ///< of linear heads; none: `scale`
  std::vector<double> linear_head_decay;    ///< Decay::kHead: log decays <= 0, one a linear head
  std::optional<ElementType> output_dtype;  ///< default: the input's
  bool overwrite = false;
  bool resume = false;  ///< go on from what a run that was stopped has left
  bool allow_nonfinite = false;
  std::optional<std::size_t> memory_bytes;  ///< the most a rank may use
  double hop_limit_seconds = 1800;          ///< the longest that a transfer between GPUs may take
  int kv_heads_at_once = 0;                 ///< the most that go round together, and a stop waits for; 0: all that fit

  std::string report;  ///< a file for the JSON report; empty: none
  std::string trace;   ///< a file for the timeline, Chrome trace events; empty: none
  ProgressMode progress = ProgressMode::kAuto;
  bool dry_run = false;

  /// The full configuration as `name = value` lines that --config reads back; stands in the output's attributes.
  std::string text() const;
  /// Of these the lines that elements of the output depend on.
  std::string result_text() const;
};

/// Parses what text() wrote, for verify. @throws Error(kBadInput).
RunConfig parse_run_config(const std::string& text);

/// "0-3,8" -> {0, 1, 2, 3, 8}. @throws Error(kBadInput) on anything else, or a head given twice.
std::vector<int> parse_head_list(const std::string& text);

/// "16G", "512MiB", "1.5g", "1000000" -> bytes (K, M, G, T are powers of 1024). @throws Error(kBadInput).
std::size_t parse_memory_size(const std::string& text);

}  // namespace ringscan
