#include "kernels/reference/oracle.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace ringscan::oracle {
namespace {

double score(const HeadKeys& keys, std::span<const double> q, std::int64_t key, double scale) {
  double dot = 0.0;
  for (std::int64_t d = 0; d < keys.head_dim; ++d) {
    dot += q[static_cast<std::size_t>(d)] * keys.k[static_cast<std::size_t>(key * keys.head_dim + d)];
  }
  return scale * dot;
}

void add_value(const HeadKeys& keys, std::int64_t key, double weight, std::vector<double>& o) {
  for (std::int64_t d = 0; d < keys.v_dim; ++d) {
    o[static_cast<std::size_t>(d)] += weight * keys.v[static_cast<std::size_t>(key * keys.v_dim + d)];
  }
}

double norm(std::span<const double> x) {
  return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
}

/// log(1 + e^x).
double softplus(double x) {
  return x > 0.0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}

}  // namespace

Row softmax_row(const SoftmaxParams& params, const HeadKeys& keys, std::span<const double> q, std::int64_t query,
                double scale) {
  const Band band = band_of(params);
  Row row{std::vector<double>(static_cast<std::size_t>(keys.v_dim), 0.0), -std::numeric_limits<double>::infinity()};
  double max = -std::numeric_limits<double>::infinity();
  std::int64_t num_visible = 0;
  for (std::int64_t j = 0; j < keys.seq_len; ++j) {
    if (!band.sees(query, j)) continue;
    max = std::max(max, score(keys, q, j, scale));
    ++num_visible;
  }
  if (num_visible == 0) return row;

  double sum = 0.0;
  for (std::int64_t j = 0; j < keys.seq_len; ++j) {
    if (!band.sees(query, j)) continue;
    const double weight = std::exp(score(keys, q, j, scale) - max);
    sum += weight;
    add_value(keys, j, weight, row.o);
  }
  for (double& element : row.o) element /= sum;
  row.statistic = max + std::log(sum);
  return row;
}

Row cog_row(const CogParams& params, const HeadKeys& keys, std::span<const double> q, std::int64_t query,
            double scale) {
  const Band band = band_of(params);
  Row row{std::vector<double>(static_cast<std::size_t>(keys.v_dim), 0.0), -std::numeric_limits<double>::infinity()};
  double max = 0.0;
  for (std::int64_t j = 0; j < keys.seq_len; ++j) {
    if (band.sees(query, j)) max = std::max(max, std::abs(score(keys, q, j, scale)));
  }
  double sum = 0.0;
  for (std::int64_t j = 0; j < keys.seq_len; ++j) {
    if (!band.sees(query, j)) continue;
    const double z = score(keys, q, j, scale);
    const double magnitude = std::exp(std::abs(z) - max);
    sum += magnitude;
    if (z != 0.0) add_value(keys, j, z > 0.0 ? magnitude : -magnitude, row.o);
  }
  if (sum == 0.0) return row;
  for (double& element : row.o) element /= sum;
  row.statistic = max + std::log(sum);
  return row;
}

std::int64_t sparse_keys_kept(const SparseParams& params, std::int64_t query, std::int64_t seq_len) {
  const auto visible = static_cast<long double>(query + 1);
  const long double n = params.count == SparseCount::kTotal ? static_cast<long double>(seq_len) : visible;
  const long double power = params.alpha * std::pow(n, static_cast<long double>(params.exponent));
  const long double wanted = std::max<long double>(params.min_keys, std::ceil(power * (1.0L - 1e-14L)));
  return static_cast<std::int64_t>(std::min(visible, wanted));
}

Row sparse_row(const SparseParams& params, const HeadKeys& keys, std::span<const double> q, std::int64_t query,
               double scale) {
  const std::int64_t num_kept = sparse_keys_kept(params, query, keys.seq_len);
  std::vector<double> z;
  for (std::int64_t j = 0; j <= query; ++j) z.push_back(score(keys, q, j, scale));
  std::vector<std::int64_t> order(z.size());
  std::iota(order.begin(), order.end(), 0);
  // Nearest first, or largest first with ties to the nearer.
  std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    const double za = z[static_cast<std::size_t>(a)];
    const double zb = z[static_cast<std::size_t>(b)];
    return params.select == SparseSelect::kWindow || za == zb ? a > b : za > zb;
  });
  Row row{std::vector<double>(static_cast<std::size_t>(keys.v_dim), 0.0)};
  const double max = *std::max_element(z.begin(), z.end());
  double kept = 0.0;
  double all = 0.0;
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    const double weight = std::exp(z[static_cast<std::size_t>(order[rank])] - max);
    all += weight;
    if (static_cast<std::int64_t>(rank) >= num_kept) continue;
    kept += weight;
    add_value(keys, order[rank], weight, row.o);
  }
  for (double& element : row.o) element /= kept;
  row.statistic = max + std::log(kept);
  row.kept_mass = kept / all;
  if (params.select == SparseSelect::kWindow) return row;
  const std::int64_t threshold = order[static_cast<std::size_t>(num_kept - 1)];
  const auto key = [&](std::int64_t j) {
    return keys.k.subspan(static_cast<std::size_t>(j * keys.head_dim), q.size());
  };
  double largest_k = 0.0;
  for (std::int64_t j = 0; j <= query; ++j) largest_k = std::max(largest_k, norm(key(j)));
  const double rounding = kScoreRounding * std::abs(scale) * norm(q) * largest_k;
  const double z_threshold = z[static_cast<std::size_t>(threshold)];
  double near_ties = 0.0;
  for (std::int64_t j = 0; j <= query; ++j) {
    const bool is_near = std::abs(z[static_cast<std::size_t>(j)] - z_threshold) <= rounding;
    if (is_near && !std::ranges::equal(key(j), key(threshold))) near_ties += 1.0;
  }
  row.slack = 2.0 * near_ties * std::exp(z_threshold + rounding - row.statistic);
  return row;
}

Row stick_breaking_row(const StickBreakingParams& params, const HeadKeys& keys, std::span<const double> q,
                       std::int64_t query, double scale, std::span<const double> remainder_vector) {
  const Band band = band_of(params);
  Row row{std::vector<double>(static_cast<std::size_t>(keys.v_dim), 0.0), 0.0};
  // log A_ij = z_ij - sum over l = j .. of log(1 + e^(z_il)), the nearest key first.
  double log_stick = 0.0;
  for (std::int64_t j = keys.seq_len; j-- > 0;) {
    if (!band.sees(query, j)) continue;
    const double z = score(keys, q, j, scale);
    log_stick -= softplus(z);
    add_value(keys, j, std::exp(z + log_stick), row.o);
  }
  row.statistic = std::exp(log_stick);
  if (params.remainder == RemainderPolicy::kValue) add_value(keys, query, row.statistic, row.o);
  if (params.remainder == RemainderPolicy::kVector) {
    for (std::size_t d = 0; d < row.o.size(); ++d) row.o[d] += row.statistic * remainder_vector[d];
  }
  return row;
}

Row row(const Mechanism& mechanism, const HeadKeys& keys, std::span<const double> q, std::int64_t query, double scale,
        std::span<const double> remainder_vector) {
  if (const auto* softmax = std::get_if<SoftmaxParams>(&mechanism)) {
    return softmax_row(*softmax, keys, q, query, scale);
  }
  if (const auto* sparse = std::get_if<SparseParams>(&mechanism)) return sparse_row(*sparse, keys, q, query, scale);
  if (const auto* cog = std::get_if<CogParams>(&mechanism)) return cog_row(*cog, keys, q, query, scale);
  return stick_breaking_row(std::get<StickBreakingParams>(mechanism), keys, q, query, scale, remainder_vector);
}

}  // namespace ringscan::oracle
