#include "mechanism/growing_window.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

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

/// f(first query, end, keys kept by each of them), in order.
template <typename F>
void GrowingWindow::for_each_size(const TokenRun& queries, F&& f) const {
  std::int64_t known = 0;  // of the next query, unless 0
  for (std::int64_t query = queries.begin; query < queries.end;) {
    const std::int64_t kept = known > 0 ? std::exchange(known, 0) : keys_kept(query);
    std::int64_t end = query + 1;
    if (kept < end && params_.count == SparseCount::kTotal) end = queries.end;
    if (kept < end && end < queries.end) {
      // Until more are wanted of as many keys as the inverse of the power says, within its rounding. What a query sees
      // is no limit any more: k_i grows by at most one a row.
      const double keys = std::pow(static_cast<double>(kept) / params_.alpha, 1.0 / params_.exponent);
      end = std::max(end, static_cast<std::int64_t>(std::min(keys, static_cast<double>(queries.end))));
      while (end < queries.end && wanted(end + 1) <= kept) ++end;
      while (wanted(end) > kept) --end;
      known = kept + 1;
    }
    f(query, end, kept);
    query = end;
  }
}

std::vector<std::int64_t> GrowingWindow::keys_kept(const TokenRun& queries) const {
  std::vector<std::int64_t> kept;
  kept.reserve(static_cast<std::size_t>(std::max<std::int64_t>(0, queries.size())));
  for_each_size(queries, [&](std::int64_t first, std::int64_t end, std::int64_t keys) {
    kept.insert(kept.end(), static_cast<std::size_t>(end - first), keys);
  });
  return kept;
}

std::vector<std::int64_t> GrowingWindow::reaches_of(std::vector<std::int64_t> kept) {
  for (std::int64_t& keys : kept) --keys;
  return kept;
}

std::int64_t GrowingWindow::count_kept(const TokenRun& queries) const {
  std::int64_t sum = 0;
  for_each_size(queries, [&](std::int64_t first, std::int64_t end, std::int64_t keys) { sum += (end - first) * keys; });
  return sum;
}

}  // namespace ringscan
