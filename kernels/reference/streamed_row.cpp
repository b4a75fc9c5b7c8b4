#include "kernels/reference/streamed_row.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

namespace ringscan::oracle {
namespace {

/// From here on e^-x is 0 in float64, denormals included.
constexpr double kNothingLeft = 746.0;

double softplus(double x) {
  return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
}

void add_scaled(std::vector<double>& out, double weight, std::span<const double> v) {
  for (std::size_t d = 0; d < out.size(); ++d) out[d] += weight * v[d];
}

}  // namespace

KeyBlock::KeyBlock(const TokenRun& run, std::span<const double> k, std::span<const double> v)
    : run_(run), v_dim_(v.size() / static_cast<std::size_t>(run.size())), k_by_dim_(k.size()), v_(v) {
  const auto num_keys = static_cast<std::size_t>(run.size());
  const std::size_t head_dim = k.size() / num_keys;
  for (std::size_t key = 0; key < num_keys; ++key) {
    for (std::size_t d = 0; d < head_dim; ++d) k_by_dim_[d * num_keys + key] = k[key * head_dim + d];
  }
}

void KeyBlock::scores(std::span<const double> q, double scale, std::vector<double>& z) const {
  const auto num_keys = static_cast<std::size_t>(run_.size());
  z.assign(num_keys, 0.0);
  for (std::size_t d = 0; d < q.size(); ++d) {
    const double* k = k_by_dim_.data() + d * num_keys;
    for (std::size_t key = 0; key < num_keys; ++key) z[key] += q[d] * k[key];
  }
  for (double& score : z) score *= scale;
}

StreamedRow::StreamedRow(const Mechanism& mechanism, std::span<const double> q, std::int64_t query, double scale,
                         std::int64_t v_dim)
    : mechanism_(&mechanism),
      band_(band_of(mechanism)),
      q_(q),
      query_(query),
      scale_(scale),
      out_(static_cast<std::size_t>(v_dim), 0.0),
      max_(-std::numeric_limits<double>::infinity()) {}

TokenRun StreamedRow::wanted(const TokenRun& all) const {
  if (spent_ > kNothingLeft) return {all.begin, all.begin};
  return intersect(all, {query_ - band_.max_delta, query_ - band_.min_delta + 1});
}

void StreamedRow::add(const KeyBlock& block) {
  const TokenRun seen = wanted(block.run());
  if (seen.empty()) return;
  thread_local std::vector<double> z;
  block.scores(q_, scale_, z);
  const auto offset = static_cast<std::size_t>(seen.begin - block.run().begin);
  const auto seen_z = std::span<const double>(z).subspan(offset, static_cast<std::size_t>(seen.size()));
  if (std::holds_alternative<SoftmaxParams>(*mechanism_)) {
    add_softmax(block, seen, seen_z);
  } else if (std::holds_alternative<CogParams>(*mechanism_)) {
    add_cog(block, seen, seen_z);
  } else {
    add_stick_breaking(block, seen, seen_z);
  }
}

/// m' = max(m, largest);  l = l e^(m - m');  O likewise.
void StreamedRow::raise_max(double largest) {
  if (!(largest > max_)) return;
  const double shrink = sum_ > 0.0 ? std::exp(max_ - largest) : 0.0;
  for (double& x : out_) x *= shrink;
  sum_ *= shrink;
  max_ = largest;
}

/// l += sum e^(z - m);  O likewise.
void StreamedRow::add_softmax(const KeyBlock& block, const TokenRun& seen, std::span<const double> z) {
  raise_max(*std::max_element(z.begin(), z.end()));
  for (std::int64_t key = seen.begin; key < seen.end; ++key) {
    const double weight = std::exp(z[static_cast<std::size_t>(key - seen.begin)] - max_);
    sum_ += weight;
    add_scaled(out_, weight, block.v(key));
  }
}

/// l += sum e^(|z| - m);  O += sum sign(z) e^(|z| - m) v.
void StreamedRow::add_cog(const KeyBlock& block, const TokenRun& seen, std::span<const double> z) {
  double largest = 0.0;
  for (const double score : z) largest = std::max(largest, std::abs(score));
  raise_max(largest);
  for (std::int64_t key = seen.begin; key < seen.end; ++key) {
    const double score = z[static_cast<std::size_t>(key - seen.begin)];
    const double magnitude = std::exp(std::abs(score) - max_);
    sum_ += magnitude;
    if (score != 0.0) add_scaled(out_, score > 0.0 ? magnitude : -magnitude, block.v(key));
  }
}

/// log A_j = z_j - sum_{l >= j} sp(z_l), from the nearest key to the farthest.
void StreamedRow::add_stick_breaking(const KeyBlock& block, const TokenRun& seen, std::span<const double> z) {
  for (std::int64_t key = seen.end - 1; key >= seen.begin; --key) {
    const double score = z[static_cast<std::size_t>(key - seen.begin)];
    spent_ += softplus(score);
    add_scaled(out_, std::exp(score - spent_), block.v(key));
  }
}

Row StreamedRow::finish(std::span<const double> v_own, std::span<const double> remainder_vector) const {
  Row row{out_, 0.0};
  if (has_lse(*mechanism_)) {
    if (sum_ > 0.0) {
      for (double& x : row.o) x /= sum_;
    }
    row.statistic = max_ + std::log(sum_);  // no key: -inf
    return row;
  }
  row.statistic = std::exp(-spent_);
  const RemainderPolicy policy = std::get<StickBreakingParams>(*mechanism_).remainder;
  if (policy == RemainderPolicy::kValue) add_scaled(row.o, row.statistic, v_own);
  if (policy == RemainderPolicy::kVector) add_scaled(row.o, row.statistic, remainder_vector);
  return row;
}

}  // namespace ringscan::oracle
