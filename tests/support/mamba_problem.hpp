#pragma once
// Mamba blocks with random parameters, and their exact result.

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "engine/mamba_pass.hpp"
#include "kernels/reference/ssm_oracle.hpp"

namespace ringscan::testing {

struct MambaProblem {
  std::int64_t batch = 1;
  std::int64_t seq_len = 0;
  MambaWeights weights;
  std::vector<float> x;  ///< [batch, seq_len, d_model]
};

inline MambaProblem make_mamba_problem(std::int64_t seq_len, const MambaShape& shape, std::int64_t batch = 1,
                                       std::uint32_t seed = 1) {
  MambaProblem p;
  p.batch = batch;
  p.seq_len = seq_len;
  p.weights.shape = shape;
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  const auto random = [&](std::int64_t rows, std::int64_t columns, double deviation) {
    std::vector<float> values(static_cast<std::size_t>(rows * columns));
    for (float& value : values) value = static_cast<float>(deviation) * normal(generator);
    return values;
  };
  const auto fan_in = [](std::int64_t n) { return 1.0 / std::sqrt(static_cast<double>(n)); };
  MambaWeights& w = p.weights;
  w.in_proj = random(2 * shape.d_inner, shape.d_model, fan_in(shape.d_model));
  w.conv_weight = random(shape.d_inner, shape.conv_width, 0.5);
  w.conv_bias = random(shape.d_inner, 1, 0.1);
  w.x_proj = random(shape.dt_b_c(), shape.d_inner, fan_in(shape.d_inner));
  w.dt_proj = random(shape.d_inner, shape.dt_rank, fan_in(shape.dt_rank));
  w.dt_bias = random(shape.d_inner, 1, 0.5);
  for (float& x : w.dt_bias) x -= 4.0f;
  w.a.resize(static_cast<std::size_t>(shape.d_inner * shape.d_state));
  for (std::size_t i = 0; i < w.a.size(); ++i) {
    w.a[i] = -std::exp(std::log(static_cast<float>(i % static_cast<std::size_t>(shape.d_state) + 1)));
  }
  w.d = random(shape.d_inner, 1, 1.0);
  w.out_proj = random(shape.d_out, shape.d_inner, fan_in(shape.d_inner));
  p.x = random(batch * seq_len, shape.d_model, 1.0);
  return p;
}

/// [batch, seq_len, d_out].
inline std::vector<double> exact_result(const MambaProblem& p) {
  const auto doubles = [](const std::vector<float>& values) {
    return std::vector<double>(values.begin(), values.end());
  };
  const MambaWeights& w = p.weights;
  oracle::MambaParameters parameters{w.shape.d_model,
                                     w.shape.d_inner,
                                     w.shape.d_state,
                                     w.shape.dt_rank,
                                     w.shape.d_out,
                                     w.shape.conv_width,
                                     doubles(w.in_proj),
                                     doubles(w.conv_weight),
                                     doubles(w.conv_bias),
                                     doubles(w.x_proj),
                                     doubles(w.dt_proj),
                                     doubles(w.dt_bias),
                                     {},
                                     doubles(w.d),
                                     doubles(w.out_proj)};
  for (const float a : w.a) parameters.a_log.push_back(std::log(-static_cast<double>(a)));
  std::vector<double> result;
  const std::vector<double> x = doubles(p.x);
  for (std::int64_t batch = 0; batch < p.batch; ++batch) {
    oracle::MambaBlock block(parameters);
    for (std::int64_t token = 0; token < p.seq_len; ++token) {
      const auto y =
          block.step(std::span(x).subspan(static_cast<std::size_t>((batch * p.seq_len + token) * w.shape.d_model),
                                          static_cast<std::size_t>(w.shape.d_model)));
      result.insert(result.end(), y.begin(), y.end());
    }
  }
  return result;
}

}  // namespace ringscan::testing
