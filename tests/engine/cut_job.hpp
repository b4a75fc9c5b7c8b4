#pragma once
// A sequence cut into files, and the job over the last one of them.

#include <string>
#include <vector>

#include "comm/transport.hpp"
#include "engine/run_config.hpp"
#include "tests/engine/job.hpp"
#include "tests/engine/problem_file.hpp"
#include "tests/support/context_problem.hpp"

namespace ringscan::test {

/// The layers of a file.
using Problems = std::vector<testing::AttentionProblem>;

inline Problems cut_layers(const Problems& layers, const TokenRun& run) {
  Problems parts;
  for (const testing::AttentionProblem& layer : layers) parts.push_back(testing::cut_out(layer, run));
  return parts;
}

/// Collective: writes the layers whole, and cut at some tokens. Returns the configuration for the last part.
inline RunConfig write_cut(const Folder& folder, const Problems& layers, const std::vector<std::int64_t>& cuts,
                           Transport& transport) {
  RunConfig config;
  std::int64_t begin = 0;
  for (const std::int64_t cut : cuts) {
    config.context.push_back(folder.file("part" + std::to_string(begin) + ".h5"));
    write_input(config.context.back(), cut_layers(layers, {begin, cut}), transport);
    begin = cut;
  }
  config.input = folder.file("last.h5");
  config.output = folder.file("out.h5");
  config.overwrite = true;
  config.want_lse = config.want_remainder = config.want_kept_mass = true;
  write_input(config.input, cut_layers(layers, {begin, layers[0].seq_len}), transport);
  return config;
}

}  // namespace ringscan::test
