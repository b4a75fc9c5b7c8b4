#include "kernels/reference/ssm_oracle.hpp"

#include <cmath>
#include <utility>

namespace ringscan::oracle {
namespace {

double softplus(double x) {
  return x > 20.0 ? x : std::log1p(std::exp(x));
}

double silu(double x) {
  return x / (1.0 + std::exp(-x));
}

/// weight [rows, columns] times x.
std::vector<double> product(const std::vector<double>& weight, std::span<const double> x) {
  std::vector<double> y(weight.size() / x.size(), 0.0);
  for (std::size_t row = 0; row < y.size(); ++row) {
    const double* w = weight.data() + row * x.size();
    for (std::size_t column = 0; column < x.size(); ++column) y[row] += w[column] * x[column];
  }
  return y;
}

std::vector<double> a_of(const MambaParameters& p) {
  std::vector<double> a;
  for (const double x : p.a_log) a.push_back(-std::exp(x));
  return a;
}

}  // namespace

SelectiveScan::SelectiveScan(std::vector<double> a, std::vector<double> d, std::vector<double> delta_bias,
                             std::vector<double> h)
    : a_(std::move(a)), d_(std::move(d)), delta_bias_(std::move(delta_bias)), h_(std::move(h)) {
  if (h_.empty()) h_.assign(a_.size(), 0.0);
}

std::span<const double> SelectiveScan::step(std::span<const double> u, std::span<const double> delta,
                                            std::span<const double> z, std::span<const double> b,
                                            std::span<const double> c) {
  y_.assign(u.size(), 0.0);
  const std::size_t d_state = b.size();
  for (std::size_t channel = 0; channel < u.size(); ++channel) {
    const double step = softplus(delta[channel] + (delta_bias_.empty() ? 0.0 : delta_bias_[channel]));
    double y = d_.empty() ? 0.0 : d_[channel] * u[channel];
    for (std::size_t n = 0; n < d_state; ++n) {
      double& h = h_[channel * d_state + n];
      h = std::exp(step * a_[channel * d_state + n]) * h + step * b[n] * u[channel];
      y += c[n] * h;
    }
    y_[channel] = z.empty() ? y : y * silu(z[channel]);
  }
  return y_;
}

MambaBlock::MambaBlock(const MambaParameters& parameters, std::vector<double> h, const std::vector<double>& conv)
    : parameters_(&parameters),
      scan_(a_of(parameters), parameters.d, parameters.dt_bias, std::move(h)),
      inputs_(static_cast<std::size_t>(parameters.conv_width),
              std::vector<double>(static_cast<std::size_t>(parameters.d_inner), 0.0)) {
  // The oldest of the inputs is gone when the first token comes.
  for (std::size_t i = 0; i < conv.size(); ++i) {
    const auto d_inner = static_cast<std::size_t>(parameters.d_inner);
    inputs_[1 + i / d_inner][i % d_inner] = conv[i];
  }
}

std::vector<double> MambaBlock::conv() const {
  std::vector<double> inputs;
  for (std::size_t i = 1; i < inputs_.size(); ++i) inputs.insert(inputs.end(), inputs_[i].begin(), inputs_[i].end());
  return inputs;
}

std::span<const double> MambaBlock::step(std::span<const double> x) {
  const MambaParameters& p = *parameters_;
  const auto d_inner = static_cast<std::size_t>(p.d_inner);
  const auto d_state = static_cast<std::size_t>(p.d_state);
  const auto dt_rank = static_cast<std::size_t>(p.dt_rank);
  const auto width = static_cast<std::size_t>(p.conv_width);
  const std::vector<double> xz = product(p.in_proj, x);
  const auto split = xz.begin() + static_cast<std::ptrdiff_t>(d_inner);
  inputs_.pop_front();
  inputs_.emplace_back(xz.begin(), split);
  std::vector<double> u(d_inner);
  for (std::size_t channel = 0; channel < d_inner; ++channel) {
    double sum = p.conv_bias.empty() ? 0.0 : p.conv_bias[channel];
    for (std::size_t k = 0; k < width; ++k) sum += p.conv_weight[channel * width + k] * inputs_[k][channel];
    u[channel] = silu(sum);
  }
  const std::vector<double> dt_b_c = product(p.x_proj, u);
  const std::span<const double> all(dt_b_c);
  const std::vector<double> delta = product(p.dt_proj, all.first(dt_rank));
  const auto gated = scan_.step(u, delta, std::span<const double>(xz).subspan(d_inner), all.subspan(dt_rank, d_state),
                                all.subspan(dt_rank + d_state, d_state));
  y_ = product(p.out_proj, gated);
  return y_;
}

}  // namespace ringscan::oracle
