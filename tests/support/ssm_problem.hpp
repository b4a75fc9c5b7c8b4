#pragma once
// Selective scans with random inputs, and their exact result.

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/reference/ssm_oracle.hpp"
#include "kernels/ssm_kernels.hpp"

namespace ringscan::testing {

struct SsmProblem {
  std::int64_t batch = 1;
  std::int64_t seq_len = 0;
  std::int64_t channels = 0;
  std::int64_t groups = 1;
  std::int64_t d_state = 4;
  bool has_d = true;
  bool has_bias = true;
  bool has_z = true;
  double delta_low = 0.001;  ///< of delta after softplus, about
  double delta_high = 0.1;
  std::uint32_t seed = 1;
  std::vector<float> u, delta, z, b, c, a, d, bias;

  void fill() {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    const auto fill_normal = [&](std::vector<float>& values, std::int64_t count) {
      values.resize(static_cast<std::size_t>(count));
      for (float& value : values) value = normal(generator);
    };
    fill_normal(u, batch * seq_len * channels);
    fill_normal(z, batch * seq_len * channels);
    fill_normal(b, batch * seq_len * groups * d_state);
    fill_normal(c, batch * seq_len * groups * d_state);
    fill_normal(d, channels);
    delta.resize(u.size());
    std::uniform_real_distribution<double> log_delta(std::log(delta_low), std::log(delta_high));
    for (float& x : delta) x = static_cast<float>(std::log(std::expm1(std::exp(log_delta(generator)))));
    fill_normal(bias, channels);
    for (float& x : bias) x *= 0.1f;
    a.resize(static_cast<std::size_t>(channels * d_state));
    for (std::size_t i = 0; i < a.size(); ++i) a[i] = -static_cast<float>(i % static_cast<std::size_t>(d_state) + 1);
  }

  /// The tokens [run) of the whole sequence, as views into the vectors above.
  ScanInputs inputs(const TokenRun& run) const {
    ScanInputs inputs;
    const auto view = [&](const std::vector<float>& values, std::int64_t heads, std::int64_t dim) {
      return dense_any_view(values.data(), ElementType::kFloat32, {batch, seq_len, heads, dim})
          .tokens(run.begin, run.size());
    };
    inputs.u = view(u, 1, channels);
    inputs.delta = view(delta, 1, channels);
    if (has_z) inputs.z = view(z, 1, channels);
    inputs.b = view(b, groups, d_state);
    inputs.c = view(c, groups, d_state);
    inputs.channels_per_group = channels / groups;
    inputs.a = a.data();
    inputs.d = has_d ? d.data() : nullptr;
    inputs.delta_bias = has_bias ? bias.data() : nullptr;
    return inputs;
  }

  std::size_t state_size() const { return static_cast<std::size_t>(batch * channels * d_state); }
};

struct SsmResult {
  std::vector<double> y;  ///< [batch, seq_len, channels]
  std::vector<double> h;  ///< [batch, channels, d_state]
};

inline SsmResult exact_result(const SsmProblem& p, const std::vector<float>& h_start = {}) {
  SsmResult result;
  result.y.resize(p.u.size());
  const std::int64_t width = p.channels / p.groups;
  const auto doubles = [](const std::vector<float>& values, std::int64_t first, std::int64_t count) {
    return std::vector<double>(values.begin() + first, values.begin() + first + count);
  };
  for (std::int64_t batch = 0; batch < p.batch; ++batch) {
    for (std::int64_t group = 0; group < p.groups; ++group) {
      const std::int64_t channel = group * width;
      const auto part = [&](const std::vector<float>& values, bool given) {
        return given ? doubles(values, channel, width) : std::vector<double>();
      };
      oracle::SelectiveScan scan(
          doubles(p.a, channel * p.d_state, width * p.d_state), part(p.d, p.has_d), part(p.bias, p.has_bias),
          h_start.empty() ? std::vector<double>()
                          : doubles(h_start, (batch * p.channels + channel) * p.d_state, width * p.d_state));
      for (std::int64_t token = 0; token < p.seq_len; ++token) {
        const std::int64_t at = (batch * p.seq_len + token) * p.channels + channel;
        const std::int64_t bc = ((batch * p.seq_len + token) * p.groups + group) * p.d_state;
        const auto y = scan.step(doubles(p.u, at, width), doubles(p.delta, at, width),
                                 p.has_z ? doubles(p.z, at, width) : std::vector<double>(), doubles(p.b, bc, p.d_state),
                                 doubles(p.c, bc, p.d_state));
        std::copy(y.begin(), y.end(), result.y.begin() + at);
      }
      result.h.insert(result.h.end(), scan.h().begin(), scan.h().end());
    }
  }
  return result;
}

/// Filled with values of a seed of its own.
inline SsmProblem make_ssm_problem(std::int64_t seq_len, std::int64_t channels, std::int64_t d_state,
                                   std::int64_t groups = 1, std::int64_t batch = 1) {
  SsmProblem p;
  p.seq_len = seq_len;
  p.channels = channels;
  p.d_state = d_state;
  p.groups = groups;
  p.batch = batch;
  p.seed = static_cast<std::uint32_t>(seq_len + channels);
  p.fill();
  return p;
}

/// max |found - wanted| / max(1, max |wanted|); NaN fails.
template <typename A, typename B>
double relative_error(const A& found, const B& wanted) {
  if (found.size() != wanted.size()) return INFINITY;
  double worst = 0.0;
  double scale = 1.0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double error = std::abs(static_cast<double>(found[i]) - static_cast<double>(wanted[i]));
    if (!(error <= worst)) worst = std::isnan(error) ? INFINITY : error;
    scale = std::max(scale, std::abs(static_cast<double>(wanted[i])));
  }
  return worst / scale;
}

}  // namespace ringscan::testing
