#pragma once
// What a user asked of `analyze`: its options by their command-line names.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/run_config.hpp"
#include "engine/settings.hpp"
#include "mechanism/mechanism.hpp"

namespace ringscan {

/// What is computed for each head.
struct MeasureChoice {
  bool recency = true;
  bool reach = true;
  bool kept_mass = true;
  bool sign_balance = true;
};

struct AnalysisRequest {
  std::string input;
  std::string layers = "*";  ///< a glob on group names
  MeasureChoice measures;
  std::int64_t recency_window = 256;  ///< recent are the keys with i - j <= this
  double recency_threshold = 0.9;     ///< a head of this ratio or more is proposed for replacement
  std::vector<double> epsilons = {1e-3, 1e-6};
  SparseSelect select = SparseSelect::kTopk;
  std::vector<double> exponents = {0.4, 0.5, 0.6, 0.7, 0.8};  ///< ascending
  std::optional<double> scale;                                ///< default 1/sqrt(head_dim)
  bool allow_nonfinite = false;
  std::optional<std::size_t> memory_bytes;  ///< the most a rank may use
  ProgressMode progress = ProgressMode::kAuto;

  std::string report;        ///< a file for the JSON report; empty: none
  std::string plot;          ///< a PNG; empty: none
  std::string write_config;  ///< a run configuration; empty: none
  std::string replace_with = "linear";
  std::string keep = "softmax";
};

/// All options, in the order help shows them.
std::span<const OptionInfo> analysis_option_infos();

/// @throws Error(kBadInput), as make_run_config().
AnalysisRequest make_analysis_request(const std::vector<Setting>& settings);

}  // namespace ringscan
