#include "kernels/reference/chela_oracle.hpp"

#include <cmath>
#include <complex>
#include <numbers>

namespace ringscan::oracle {
namespace {

using Complex = std::complex<double>;

/// Cooley and Tukey 1965, in place. @pre a power of two.
void transform(std::vector<Complex>& values, bool backward) {
  const std::size_t n = values.size();
  for (std::size_t i = 1, reversed = 0; i < n; ++i) {
    std::size_t bit = n / 2;
    for (; (reversed & bit) != 0; bit /= 2) reversed ^= bit;
    reversed ^= bit;
    if (i < reversed) std::swap(values[i], values[reversed]);
  }
  for (std::size_t half = 1; half < n; half *= 2) {
    const double angle = (backward ? 1.0 : -1.0) * std::numbers::pi / static_cast<double>(half);
    for (std::size_t k = 0; k < half; ++k) {
      const Complex root = std::polar(1.0, angle * static_cast<double>(k));
      for (std::size_t begin = k; begin < n; begin += 2 * half) {
        const Complex even = values[begin];
        const Complex odd = values[begin + half] * root;
        values[begin] = even + odd;
        values[begin + half] = even - odd;
      }
    }
  }
}

/// Column sums of x times a matrix [rows of x, columns].
double product(std::span<const double> x, const std::vector<double>& matrix, std::int64_t columns,
               std::int64_t column) {
  double sum = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    sum += x[i] * matrix[i * static_cast<std::size_t>(columns) + static_cast<std::size_t>(column)];
  }
  return sum;
}

std::span<const double> taps_of(const std::vector<double>& taps, std::int64_t channel, std::int64_t channels) {
  const std::size_t width = taps.size() / static_cast<std::size_t>(channels);
  return std::span(taps).subspan(static_cast<std::size_t>(channel) * width, width);
}

}  // namespace

double silu(double x) {
  return x / (1.0 + std::exp(-x));
}

std::vector<double> causal_convolution_by_transform(std::span<const double> taps, std::span<const double> past,
                                                    std::span<const double> in) {
  std::size_t length = 1;
  while (length < past.size() + in.size() + taps.size()) length *= 2;
  std::vector<Complex> kernel(length), signal(length);
  for (std::size_t j = 0; j < taps.size(); ++j) kernel[j] = taps[j];
  for (std::size_t t = 0; t < past.size(); ++t) signal[t] = past[t];
  for (std::size_t t = 0; t < in.size(); ++t) signal[past.size() + t] = in[t];
  transform(kernel, false);
  transform(signal, false);
  for (std::size_t i = 0; i < length; ++i) signal[i] *= kernel[i];
  transform(signal, true);
  std::vector<double> out(in.size());
  for (std::size_t t = 0; t < in.size(); ++t) out[t] = signal[past.size() + t].real() / static_cast<double>(length);
  return out;
}

std::vector<double> causal_convolution(std::span<const double> taps, std::span<const double> past,
                                       std::span<const double> in) {
  constexpr double kMostDirect = 0x1p26;
  if (static_cast<double>(taps.size()) * static_cast<double>(in.size()) > kMostDirect) {
    return causal_convolution_by_transform(taps, past, in);
  }
  std::vector<double> out(in.size(), 0.0);
  for (std::size_t t = 0; t < in.size(); ++t) {
    for (std::size_t j = 0; j < taps.size(); ++j) {
      if (j <= t) {
        out[t] += taps[j] * in[t - j];
      } else if (j - t <= past.size()) {
        out[t] += taps[j] * past[past.size() - (j - t)];
      }
    }
  }
  return out;
}

std::vector<double> chela_z(const ChelaParameters& p, std::int64_t channel, std::span<const double> x,
                            const ChelaPast& past) {
  std::vector<double> u = causal_convolution(taps_of(p.short_conv, channel, p.channels), past.short_inputs, x);
  for (double& value : u) value = silu(value);
  return causal_convolution(taps_of(p.long_conv, channel, p.channels), past.long_inputs, u);
}

ChelaHead::ChelaHead(const ChelaParameters& p, std::int64_t head, std::vector<double> state)
    : p_(p), head_(head), state_(std::move(state)) {
  if (state_.empty()) state_.assign(static_cast<std::size_t>(p.head_dim() * p.v_dim()), 0.0);
}

void ChelaHead::step(std::span<const double> z, std::span<const double> x) {
  z_.assign(z.begin(), z.end());
  const auto v_dim = static_cast<std::size_t>(p_.v_dim());
  for (std::size_t column = 0; column < v_dim; ++column) {
    const double v = silu(product(x, p_.w_v, p_.v_channels, head_ * p_.v_dim() + static_cast<std::int64_t>(column)));
    for (std::size_t i = 0; i < z.size(); ++i) {
      const auto channel = static_cast<std::size_t>(head_ * p_.head_dim()) + i;
      state_[i * v_dim + column] += (p_.kk[channel] * z[i] + p_.mk[channel]) * v;
    }
  }
}

std::vector<double> ChelaHead::output() const {
  const auto v_dim = static_cast<std::size_t>(p_.v_dim());
  std::vector<double> o(v_dim, 0.0);
  for (std::size_t i = 0; i < z_.size(); ++i) {
    const auto channel = static_cast<std::size_t>(head_ * p_.head_dim()) + i;
    const double q = p_.scale * (p_.kq[channel] * z_[i] + p_.mq[channel]);
    for (std::size_t column = 0; column < v_dim; ++column) o[column] += q * state_[i * v_dim + column];
  }
  return o;
}

std::vector<double> chela_output(const ChelaParameters& p, std::span<const double> x, std::span<const double> z,
                                 std::span<const double> o) {
  std::vector<double> gated(o.size());
  for (std::size_t i = 0; i < o.size(); ++i) {
    gated[i] = silu(product(z, p.w_g, p.v_channels, static_cast<std::int64_t>(i))) * o[i];
  }
  std::vector<double> y(x.begin(), x.end());
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += product(gated, p.w_o, p.channels, static_cast<std::int64_t>(i));
  return y;
}

std::vector<double> chela_block(const ChelaParameters& p, std::span<const double> x) {
  const auto channels = static_cast<std::size_t>(p.channels);
  const std::size_t tokens = x.size() / channels;
  std::vector<double> z(x.size());
  for (std::size_t channel = 0; channel < channels; ++channel) {
    std::vector<double> line(tokens);
    for (std::size_t t = 0; t < tokens; ++t) line[t] = x[t * channels + channel];
    const std::vector<double> z_line = chela_z(p, static_cast<std::int64_t>(channel), line);
    for (std::size_t t = 0; t < tokens; ++t) z[t * channels + channel] = z_line[t];
  }
  std::vector<ChelaHead> heads;
  for (std::int64_t head = 0; head < p.num_heads; ++head) heads.emplace_back(p, head);
  std::vector<double> y;
  y.reserve(x.size());
  const auto head_dim = static_cast<std::size_t>(p.head_dim());
  for (std::size_t t = 0; t < tokens; ++t) {
    const auto x_row = x.subspan(t * channels, channels);
    std::vector<double> o;
    for (std::size_t head = 0; head < heads.size(); ++head) {
      heads[head].step(std::span<const double>(z).subspan(t * channels + head * head_dim, head_dim), x_row);
      const std::vector<double> part = heads[head].output();
      o.insert(o.end(), part.begin(), part.end());
    }
    const std::vector<double> row =
        chela_output(p, x_row, std::span<const double>(z).subspan(t * channels, channels), o);
    y.insert(y.end(), row.begin(), row.end());
  }
  return y;
}

}  // namespace ringscan::oracle
