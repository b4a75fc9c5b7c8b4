#include "mechanism/growing_window.hpp"

#include <algorithm>
#include <cmath>

namespace ringscan {

GrowingWindow::GrowingWindow(const SparseParams& params, std::int64_t seq_len) : params_(params) {
  if (params.count == SparseCount::kTotal) wanted_of_total_ = wanted(seq_len);
}

std::int64_t GrowingWindow::wanted(std::int64_t num_keys) const {
  constexpr double kMany = 0x1p60;
  constexpr double kRounding = 1e-14;
  const double power = params_.alpha * std::pow(static_cast<double>(num_keys), params_.exponent);
  const double kept = std::ceil(std::min(power, kMany) * (1.0 - kRounding));
  return std::max(params_.min_keys, static_cast<std::int64_t>(kept));
}

std::int64_t GrowingWindow::keys_kept(std::int64_t query) const {
  const std::int64_t num_visible = query + 1;
  const std::int64_t num_wanted = params_.count == SparseCount::kTotal ? wanted_of_total_ : wanted(num_visible);
  return std::min(num_visible, num_wanted);
}

std::int64_t GrowingWindow::count_kept(const TokenRun& queries) const {
  std::int64_t sum = 0;
  for (std::int64_t query = queries.begin; query < queries.end; ++query) sum += keys_kept(query);
  return sum;
}

}  // namespace ringscan
