#include "kernels/reference/streamed_row.hpp"

#include <algorithm>
#include <bit>
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

double KeyBlock::norm(std::int64_t key) const {
  const auto num_keys = static_cast<std::size_t>(run_.size());
  double sum = 0.0;
  for (std::size_t i = static_cast<std::size_t>(key - run_.begin); i < k_by_dim_.size(); i += num_keys) {
    sum += k_by_dim_[i] * k_by_dim_[i];
  }
  return std::sqrt(sum);
}

std::uint64_t KeyBlock::hash(std::int64_t key) const {
  const auto num_keys = static_cast<std::size_t>(run_.size());
  std::uint64_t hash = 14695981039346656037u;
  for (std::size_t i = static_cast<std::size_t>(key - run_.begin); i < k_by_dim_.size(); i += num_keys) {
    hash = (hash ^ std::bit_cast<std::uint64_t>(k_by_dim_[i] + 0.0)) * 1099511628211u;
    hash ^= hash >> 29;
  }
  return hash;
}

StreamedRow::StreamedRow(const Mechanism& mechanism, std::span<const double> q, std::int64_t query, double scale,
                         std::int64_t v_dim, std::int64_t seq_len)
    : mechanism_(&mechanism),
      band_(band_of(mechanism)),
      q_(q),
      query_(query),
      scale_(scale),
      out_(static_cast<std::size_t>(v_dim), 0.0),
      max_(-std::numeric_limits<double>::infinity()),
      all_max_(max_) {
  if (const auto* sparse = std::get_if<SparseParams>(mechanism_)) {
    num_kept_ = sparse_keys_kept(*sparse, query, seq_len);
  }
}

TokenRun StreamedRow::wanted(const TokenRun& all) const {
  if (spent_ > kNothingLeft) return {all.begin, all.begin};
  return intersect(all, {query_ - band_.max_delta, query_ - band_.min_delta + 1});
}

void StreamedRow::add(const KeyBlock& block) {
  const TokenRun seen = wanted(block.run());
  if (seen.empty()) return;
  if (chosen_) return add_chosen(block, seen);
  thread_local std::vector<double> z;
  block.scores(q_, scale_, z);
  const auto offset = static_cast<std::size_t>(seen.begin - block.run().begin);
  const auto seen_z = std::span<const double>(z).subspan(offset, static_cast<std::size_t>(seen.size()));
  if (std::holds_alternative<SoftmaxParams>(*mechanism_)) {
    add_softmax(block, seen, seen_z);
  } else if (std::holds_alternative<CogParams>(*mechanism_)) {
    add_cog(block, seen, seen_z);
  } else if (needs_two_passes(*mechanism_)) {
    keep_scores(block, seen, seen_z);
  } else if (std::holds_alternative<SparseParams>(*mechanism_)) {
    add_window(block, seen, seen_z);
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

bool StreamedRow::needs_two_passes(const Mechanism& mechanism) {
  const auto* sparse = std::get_if<SparseParams>(&mechanism);
  return sparse != nullptr && sparse->select == SparseSelect::kTopk;
}

void StreamedRow::raise_all_max(double largest) {
  if (!(largest > all_max_)) return;
  all_sum_ *= all_sum_ > 0.0 ? std::exp(all_max_ - largest) : 0.0;
  all_max_ = largest;
}

/// The nearest keys count for o, all of them for the kept mass.
void StreamedRow::add_window(const KeyBlock& block, const TokenRun& seen, std::span<const double> z) {
  raise_all_max(*std::max_element(z.begin(), z.end()));
  for (const double score : z) all_sum_ += std::exp(score - all_max_);
  const TokenRun kept = intersect(seen, {query_ - num_kept_ + 1, query_ + 1});
  if (kept.empty()) return;
  add_softmax(block, kept,
              z.subspan(static_cast<std::size_t>(kept.begin - seen.begin), static_cast<std::size_t>(kept.size())));
}

void StreamedRow::keep_scores(const KeyBlock& block, const TokenRun& seen, std::span<const double> z) {
  raise_all_max(*std::max_element(z.begin(), z.end()));
  for (std::int64_t key = seen.begin; key < seen.end; ++key) {
    const double score = z[static_cast<std::size_t>(key - seen.begin)];
    all_sum_ += std::exp(score - all_max_);
    largest_k_ = std::max(largest_k_, block.norm(key));
    scores_.push_back({score, key, block.hash(key)});
  }
}

/// The largest scores, ties to the nearer key.
void StreamedRow::begin_second_pass() {
  const auto threshold = scores_.begin() + static_cast<std::ptrdiff_t>(num_kept_ - 1);
  const auto is_before = [](const Score& a, const Score& b) { return a.z != b.z ? a.z > b.z : a.key > b.key; };
  std::nth_element(scores_.begin(), threshold, scores_.end(), is_before);
  max_ = all_max_;
  for (auto score = scores_.begin(); score <= threshold; ++score) sum_ += std::exp(score->z - max_);
  count_near_ties();
  scores_.resize(static_cast<std::size_t>(num_kept_));
  std::sort(scores_.begin(), scores_.end(), [](const Score& a, const Score& b) { return a.key < b.key; });
  chosen_ = true;
}

void StreamedRow::count_near_ties() {
  double q_squared = 0.0;
  for (const double x : q_) q_squared += x * x;
  const double rounding = kScoreRounding * std::abs(scale_) * std::sqrt(q_squared) * largest_k_;
  const Score threshold = scores_[static_cast<std::size_t>(num_kept_ - 1)];
  const auto near_ties = std::count_if(scores_.begin(), scores_.end(), [&](const Score& score) {
    return std::abs(score.z - threshold.z) <= rounding && score.hash != threshold.hash;
  });
  slack_ = 2.0 * static_cast<double>(near_ties) * std::exp(threshold.z + rounding - max_) / sum_;
}

void StreamedRow::add_chosen(const KeyBlock& block, const TokenRun& seen) {
  auto score = std::lower_bound(scores_.begin(), scores_.end(), seen.begin,
                                [](const Score& a, std::int64_t key) { return a.key < key; });
  for (; score != scores_.end() && score->key < seen.end; ++score) {
    add_scaled(out_, std::exp(score->z - max_), block.v(score->key));
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
    if (all_sum_ > 0.0) row.kept_mass = sum_ / all_sum_ * std::exp(max_ - all_max_);
    row.slack = slack_;
    return row;
  }
  row.statistic = std::exp(-spent_);
  const RemainderPolicy policy = std::get<StickBreakingParams>(*mechanism_).remainder;
  if (policy == RemainderPolicy::kValue) add_scaled(row.o, row.statistic, v_own);
  if (policy == RemainderPolicy::kVector) add_scaled(row.o, row.statistic, remainder_vector);
  return row;
}

}  // namespace ringscan::oracle
