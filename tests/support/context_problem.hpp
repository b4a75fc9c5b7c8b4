#pragma once
// A problem cut in two: earlier tokens as a context in memory, later ones as a problem of their own.

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "engine/context_keys.hpp"
#include "tests/support/attention_problem.hpp"

namespace ringscan::testing {

/// Rows [first, first + count) of a whole tensor [batch, seq_len, row_elements].
template <typename T>
std::vector<T> token_rows(const std::vector<T>& whole, std::int64_t batch, std::int64_t seq_len, const TokenRun& run) {
  std::vector<T> rows;
  const std::int64_t row_elements = static_cast<std::int64_t>(whole.size()) / (batch * seq_len);
  for (std::int64_t b = 0; b < batch; ++b) {
    const auto first = whole.begin() + (b * seq_len + run.begin) * row_elements;
    rows.insert(rows.end(), first, first + run.size() * row_elements);
  }
  return rows;
}

/// Largest difference; two NaN (heads without the statistic) do not differ.
inline double difference(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = a.size() == b.size() ? 0.0 : std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    const double here = std::abs(a[i] - b[i]);
    worst = here >= 0.0 ? std::max(worst, here) : std::numeric_limits<double>::infinity();
  }
  return worst;
}

/// The problem's tokens of a run, as a problem of their own.
inline AttentionProblem cut_out(const AttentionProblem& problem, const TokenRun& run) {
  AttentionProblem part = problem;
  part.seq_len = run.size();
  part.q = token_rows(problem.q, problem.batch, problem.seq_len, run);
  part.k = token_rows(problem.k, problem.batch, problem.seq_len, run);
  part.v = token_rows(problem.v, problem.batch, problem.seq_len, run);
  return part;
}

/// The problem's first tokens, handed out in blocks; counts what was asked for.
class MemoryContext final : public ContextKeys {
 public:
  MemoryContext(const AttentionProblem& problem, std::int64_t tokens, std::int64_t block_tokens)
      : problem_(problem), tokens_(tokens), block_tokens_(block_tokens) {}

  std::int64_t tokens() const override { return tokens_; }
  void begin(std::int64_t first_needed, bool with_values) override {
    first_needed_ = first_needed;
    with_values_ = with_values;
    next_end_ = tokens_;
    ++walks;
  }
  std::optional<ContextBlock> next() override {
    if (next_end_ <= first_needed_) return std::nullopt;
    ++blocks;
    ContextBlock block;
    block.run = {std::max<std::int64_t>(0, next_end_ - block_tokens_), next_end_};
    next_end_ = block.run.begin;
    const auto take = [&](const std::vector<float>& whole, std::int64_t dim, Buffer& buffer) {
      const auto rows = token_rows(whole, problem_.batch, problem_.seq_len, block.run);
      buffer = Buffer(rows.size() * size_of(problem_.type));
      convert_elements(rows.data(), ElementType::kFloat32, buffer.data(), problem_.type, rows.size());
      return dense_any_view(std::as_const(buffer).data(), problem_.type,
                            {problem_.batch, block.run.size(), problem_.num_kv_heads, dim});
    };
    block.k = take(problem_.k, problem_.head_dim, block.k_buffer);
    block.v = take(problem_.v, problem_.v_dim, block.v_buffer);
    if (!with_values_) block.v.shape[3] = 0;
    return block;
  }
  void end() override { next_end_ = first_needed_ = 0; }

  int walks = 0;
  int blocks = 0;

 private:
  const AttentionProblem& problem_;
  std::int64_t tokens_;
  std::int64_t block_tokens_;
  std::int64_t first_needed_ = 0;
  std::int64_t next_end_ = 0;
  bool with_values_ = false;
};

}  // namespace ringscan::testing
