#pragma once
// The command line: what each command was asked to do.

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/analysis_request.hpp"
#include "engine/prediction.hpp"
#include "engine/run_config.hpp"
#include "engine/synthetic_activations.hpp"

namespace ringscan {

struct GenerateOptions {
  std::string output;
  SyntheticSpec spec;
  bool overwrite = false;
};

struct VerifyOptions {
  std::string input;
  std::string output;
  std::optional<std::int64_t> rows = 256;  ///< sampled rows; none: all
  std::uint64_t seed = 0;                  ///< of the sample
  std::optional<double> tolerance;         ///< relative to max|v|; default: the bound of the output's type
  std::string report;                      ///< a file for the JSON report; empty: none
};

struct InspectOptions {
  std::string file;
  bool as_json = false;
};

struct BenchOptions {
  std::string what = "kernels";
  std::vector<std::int64_t> seq_lens = {32768};
  std::vector<std::int64_t> head_dims = {64, 128};
  std::vector<std::string> mechanisms = {"softmax",       "stick-breaking", "cog", "linear",
                                         "sparse-window", "sparse-topk",    "ssm"};
  int repeats = 5;
  std::vector<int> worlds;    ///< comm, strong, weak: numbers of ranks, ascending; empty: powers of two and all
  int heads = 3;              ///< strong, weak, profile, io
  int kv_heads = 3;           ///< divides heads
  SyntheticBlockSizes sizes;  ///< strong, weak, profile
  ElementType dtype = ElementType::kFloat32;                        ///< profile, io; the first of the next
  std::vector<ElementType> dtypes = {ElementType::kFloat32};        ///< strong, weak
  std::vector<std::optional<LayoutKind>> layouts = {std::nullopt};  ///< strong, weak; none: auto
  std::string backend = "cpu";                                      ///< strong, weak, profile: cpu, cuda or auto
  std::string file;     ///< io, profile: an HDF5 file to make and remove; empty: none
  std::string profile;  ///< profile: where it is written
  std::string json;     ///< a file for JSON lines; empty: none
  std::string plot;     ///< strong, weak: a PNG; empty: none
};

struct PlanOptions {
  RunConfig config;                    ///< without files
  LayerShape layer;                    ///< seq_len apart
  SyntheticBlockSizes sizes;           ///< of ssm, mamba and chela
  std::vector<std::int64_t> seq_lens;  ///< ascending
  std::vector<int> worlds;             ///< ascending
  std::string profile;
  int ranks_per_node = 0;  ///< 0: as many as the profile has processors or GPUs
  int cores = 0;           ///< likewise
  int nics = 1;
  std::optional<LinkCost> inside;                  ///< in place of the profile's
  std::optional<LinkCost> between;                 ///< likewise
  std::optional<std::pair<double, double>> files;  ///< bytes a second read and written, likewise; 0: left out
  std::optional<StickReachQuantiles> reach;
  bool sweep = false;
  std::string json;  ///< a file; empty: none
  std::string plot;  ///< a PNG; empty: none
};

/// A parsed command line.
struct Invocation {
  std::variant<RunConfig, AnalysisRequest, GenerateOptions, VerifyOptions, InspectOptions, BenchOptions, PlanOptions>
      command;
  std::optional<int> ranks;  ///< threads to run as ranks; none: not asked for
  std::string log_level = "info";
};

/// The text for `--help`, `COMMAND --help` or `--version`, where `arguments` ask for one; it needs no ranks.
/// @throws Error(kBadInput) on an unknown command.
std::optional<std::string> help_text(const std::vector<std::string>& arguments);

/// `arguments` are those after the program's name. Reads the file that --config names; the command line wins over it.
/// @throws Error(kBadInput): one line naming the option (and file and line), what was found and what is wanted.
Invocation parse_command_line(const std::vector<std::string>& arguments);

}  // namespace ringscan
