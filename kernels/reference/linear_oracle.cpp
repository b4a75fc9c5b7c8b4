#include "kernels/reference/linear_oracle.hpp"

#include <cmath>

namespace ringscan::oracle {

LinearRecurrence::LinearRecurrence(const LinearParams& params, std::size_t head_dim, std::size_t v_dim, double scale)
    : params_(params), v_dim_(v_dim), scale_(scale), s_(head_dim * v_dim, 0.0), n_(head_dim, 0.0) {}

std::vector<double> LinearRecurrence::mapped(std::span<const double> x) const {
  std::vector<double> result(x.begin(), x.end());
  if (params_.feature_map == FeatureMap::kElu1) {
    for (double& element : result) element = element > 0.0 ? element + 1.0 : std::exp(element);
  }
  return result;
}

void LinearRecurrence::add(std::span<const double> k, std::span<const double> v, double log_decay) {
  const double decay = params_.decay == Decay::kNone ? 1.0 : std::exp(log_decay);
  const std::vector<double> key = mapped(k);
  for (std::size_t d = 0; d < key.size(); ++d) {
    double* row = s_.data() + d * v_dim_;
    for (std::size_t c = 0; c < v_dim_; ++c) row[c] = decay * row[c] + key[d] * v[c];
    n_[d] = decay * n_[d] + key[d];
  }
}

std::vector<double> LinearRecurrence::output(std::span<const double> q) const {
  const std::vector<double> query = mapped(q);
  std::vector<double> o(v_dim_, 0.0);
  double divisor = 0.0;
  for (std::size_t d = 0; d < query.size(); ++d) {
    for (std::size_t c = 0; c < v_dim_; ++c) o[c] += scale_ * query[d] * s_[d * v_dim_ + c];
    divisor += scale_ * query[d] * n_[d];
  }
  if (params_.normalizer == Normalizer::kZ) {
    for (double& element : o) element /= divisor + 1e-10;
  }
  return o;
}

}  // namespace ringscan::oracle
