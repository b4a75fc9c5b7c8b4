#pragma once
// A CHELA problem in a file of its own.

#include <string>
#include <vector>

#include "tests/io/foreign_file.hpp"
#include "tests/support/chela_problem.hpp"

namespace ringscan::testing {

inline ChelaProblem make_chela_problem(std::int64_t seq_len, const ChelaShape& shape, std::int64_t batch) {
  ChelaProblem p;
  p.weights.shape = shape;
  p.batch = batch;
  p.seq_len = seq_len;
  p.fill();
  return p;
}

inline void put(const std::string& file, const std::string& name, const std::vector<std::int64_t>& shape,
                const std::vector<float>& values) {
  test::ForeignDataset dataset;
  dataset.path = "/layers/0/" + name;
  dataset.shape = shape;
  for (std::size_t i = 0; i < values.size(); ++i) dataset.except.emplace_back(i, values[i]);
  test::add_foreign_dataset(file, dataset);
}

inline std::vector<float> transposed(const std::vector<float>& values, std::int64_t columns) {
  const std::int64_t rows = static_cast<std::int64_t>(values.size()) / columns;
  std::vector<float> out;
  for (std::int64_t j = 0; j < columns; ++j) {
    for (std::int64_t i = 0; i < rows; ++i) out.push_back(values[static_cast<std::size_t>(i * columns + j)]);
  }
  return out;
}

/// The tokens [run) of the problem; the long kernel in two branches.
inline void write_input(const std::string& file, const ChelaProblem& p, const TokenRun& run, Transport& transport) {
  const ChelaShape& s = p.weights.shape;
  if (transport.rank() == 0) {
    std::vector<float> x;
    for (std::int64_t b = 0; b < p.batch; ++b) {
      const auto first = p.x.begin() + (b * p.seq_len + run.begin) * s.channels;
      x.insert(x.end(), first, first + run.size() * s.channels);
    }
    put(file, "chela/x", {p.batch, run.size(), s.channels}, x);
    put(file, "chela/short_conv", {s.channels, s.short_width}, p.weights.short_conv);
    std::vector<float> rest = p.weights.long_conv, ones;
    for (std::int64_t c = 0; c < s.channels; ++c) {
      float& tap = rest[static_cast<std::size_t>(c * s.long_width)];
      ones.push_back(tap);
      tap = 0.0f;
    }
    put(file, "chela/long_conv/0", {s.channels, 1}, ones);
    put(file, "chela/long_conv/1", {s.channels, s.long_width}, rest);
    put(file, "chela/kq", {s.channels}, p.weights.kq);
    put(file, "chela/mq", {s.channels}, p.weights.mq);
    put(file, "chela/kk", {s.channels}, p.weights.kk);
    put(file, "chela/mk", {s.channels}, p.weights.mk);
    put(file, "chela/w_v", {s.channels, s.v_channels}, transposed(p.weights.w_v, s.channels));
    put(file, "chela/w_g", {s.channels, s.v_channels}, transposed(p.weights.w_g, s.channels));
    put(file, "chela/w_o", {s.v_channels, s.channels}, transposed(p.weights.w_o, s.v_channels));
  }
  transport.barrier();
}

}  // namespace ringscan::testing
