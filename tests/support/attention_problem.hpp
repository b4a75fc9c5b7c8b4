#pragma once
// A whole attention problem in memory, its exact result, and one rank's part in computing it.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "core/element_type.hpp"
#include "core/tensor_view.hpp"
#include "engine/ring_pass.hpp"
#include "kernels/reference/oracle.hpp"

namespace ringscan::testing {

struct AttentionProblem {
  std::int64_t batch = 1;
  std::int64_t seq_len = 0;
  std::int64_t num_heads = 2;
  std::int64_t num_kv_heads = 1;
  std::int64_t head_dim = 16;
  std::int64_t v_dim = 16;
  ElementType type = ElementType::kFloat32;
  double q_offset = 0.0;  ///< added to q's and k's first element with opposite signs: moves all scores
  std::uint32_t seed = 1;

  /// Whole tensors [batch, seq_len, heads, dim], rounded to `type`.
  std::vector<float> q, k, v;

  void fill() {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    const auto make = [&](std::int64_t heads, std::int64_t dim, double offset) {
      std::vector<float> values(static_cast<std::size_t>(batch * seq_len * heads * dim));
      for (std::size_t i = 0; i < values.size(); ++i) {
        const float x =
            normal(generator) + (i % static_cast<std::size_t>(dim) == 0 ? static_cast<float>(offset) : 0.0f);
        visit_element_type(type, [&](auto tag) { values[i] = to_float(from_float<decltype(tag)>(x)); });
      }
      return values;
    };
    q = make(num_heads, head_dim, q_offset);
    k = make(num_kv_heads, head_dim, -q_offset);
    v = make(num_kv_heads, v_dim, 0.0);
  }

  double scale() const { return 1.0 / std::sqrt(static_cast<double>(head_dim)); }

  std::vector<HeadSlot> slots() const {
    std::vector<HeadSlot> result;
    for (int head = 0; head < num_heads; ++head) {
      result.push_back({head, static_cast<int>(head / (num_heads / num_kv_heads))});
    }
    return result;
  }
};

/// Whole outputs: o [batch, seq_len, num_heads, v_dim], statistic [batch, seq_len, num_heads].
struct AttentionResult {
  std::vector<double> o;
  std::vector<double> statistic;
  std::vector<double> kept_mass;  ///< sparse, as statistic; else empty
  double slack = 0.0;             ///< of the exact result of top-k: the largest oracle::Row::slack
};

/// A rank's tokens of a whole tensor, in `type`.
inline std::vector<std::byte> shard_of(const std::vector<float>& whole, ElementType type, std::int64_t batch,
                                       std::int64_t row_elements, const SequenceLayout& layout, int rank) {
  std::vector<std::byte> shard;
  const std::size_t row_bytes = static_cast<std::size_t>(row_elements) * size_of(type);
  for (std::int64_t b = 0; b < batch; ++b) {
    for (const Chunk& chunk : layout.chunks(rank)) {
      for (std::int64_t token = chunk.run.begin; token < chunk.run.end; ++token) {
        shard.resize(shard.size() + row_bytes);
        convert_elements(whole.data() + (b * layout.seq_len() + token) * row_elements, ElementType::kFloat32,
                         shard.data() + shard.size() - row_bytes, type, static_cast<std::size_t>(row_elements));
      }
    }
  }
  return shard;
}

struct RankRun {
  RingPassResult pass;
  std::size_t peak_bytes = 0;
  AttentionResult whole;  ///< gathered: the same on every rank
};

/// Collective: runs one pass over `transport` and gathers the output. Rows not written stay NaN.
inline RankRun run_over_ranks(const AttentionProblem& problem, const Mechanism& mechanism, const SequenceLayout& layout,
                              std::int64_t key_block, Transport& transport, Kernels& kernels,
                              bool wants_kept_mass = true, ContextKeys* context = nullptr,
                              StickLengths* sticks = nullptr) {
  const int rank = transport.rank();
  const std::int64_t tokens = layout.local_tokens(rank);
  const auto shard = [&](const std::vector<float>& whole, std::int64_t heads, std::int64_t dim) {
    return shard_of(whole, problem.type, problem.batch, heads * dim, layout, rank);
  };
  const auto q = shard(problem.q, problem.num_heads, problem.head_dim);
  const auto k = shard(problem.k, problem.num_kv_heads, problem.head_dim);
  const auto v = shard(problem.v, problem.num_kv_heads, problem.v_dim);
  const Shape4 o_shape{problem.batch, tokens, problem.num_heads, problem.v_dim};
  std::vector<float> o(static_cast<std::size_t>(element_count(o_shape)), std::numeric_limits<float>::quiet_NaN());
  std::vector<float> statistic(static_cast<std::size_t>(problem.batch * tokens * problem.num_heads),
                               std::numeric_limits<float>::quiet_NaN());
  const auto slots = problem.slots();

  RingPassTask task;
  task.layout = &layout;
  task.mechanism = mechanism;
  task.scale = problem.scale();
  task.key_block = key_block;
  task.context = context;
  task.sticks = sticks;
  task.q = dense_any_view(q.data(), problem.type, {problem.batch, tokens, problem.num_heads, problem.head_dim});
  task.k = dense_any_view(k.data(), problem.type, {problem.batch, tokens, problem.num_kv_heads, problem.head_dim});
  task.v = dense_any_view(v.data(), problem.type, {problem.batch, tokens, problem.num_kv_heads, problem.v_dim});
  task.slots = slots;
  task.o = dense_any_view(o.data(), ElementType::kFloat32, o_shape);
  task.statistic = dense_view(statistic.data(), {problem.batch, tokens, problem.num_heads, 1});

  const bool has_kept_mass = wants_kept_mass && std::holds_alternative<SparseParams>(mechanism);
  std::vector<float> kept_mass(has_kept_mass ? statistic.size() : 0, std::numeric_limits<float>::quiet_NaN());
  task.wants_kept_mass = has_kept_mass;
  if (has_kept_mass) task.kept_mass = dense_view(kept_mass.data(), {problem.batch, tokens, problem.num_heads, 1});

  RankRun run;
  MemoryLedger ledger;
  run.pass = run_ring_pass(task, transport, kernels, &ledger);
  run.peak_bytes = ledger.peak_bytes();

  run.whole.o.assign(static_cast<std::size_t>(problem.batch * problem.seq_len * problem.num_heads * problem.v_dim),
                     0.0);
  run.whole.statistic.assign(static_cast<std::size_t>(problem.batch * problem.seq_len * problem.num_heads), 0.0);
  if (has_kept_mass) run.whole.kept_mass.assign(run.whole.statistic.size(), 0.0);
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    for (std::int64_t local = 0; local < tokens; ++local) {
      const std::int64_t global_row = (b * problem.seq_len + layout.to_global(rank, local)) * problem.num_heads;
      const std::int64_t local_row = (b * tokens + local) * problem.num_heads;
      std::copy_n(o.begin() + local_row * problem.v_dim, problem.num_heads * problem.v_dim,
                  run.whole.o.begin() + global_row * problem.v_dim);
      std::copy_n(statistic.begin() + local_row, problem.num_heads, run.whole.statistic.begin() + global_row);
      if (has_kept_mass) {
        std::copy_n(kept_mass.begin() + local_row, problem.num_heads, run.whole.kept_mass.begin() + global_row);
      }
    }
  }
  transport.all_reduce(std::span<double>(run.whole.kept_mass), ReduceOp::kSum);
  transport.all_reduce(std::span<double>(run.whole.o), ReduceOp::kSum);
  transport.all_reduce(std::span<double>(run.whole.statistic), ReduceOp::kSum);
  return run;
}

/// The exact result of every row.
inline AttentionResult exact_result(const AttentionProblem& problem, const Mechanism& mechanism) {
  AttentionResult result;
  result.o.resize(static_cast<std::size_t>(problem.batch * problem.seq_len * problem.num_heads * problem.v_dim));
  result.statistic.resize(static_cast<std::size_t>(problem.batch * problem.seq_len * problem.num_heads));
  const auto head_of = [&](const std::vector<float>& whole, std::int64_t b, std::int64_t heads, std::int64_t head,
                           std::int64_t dim) {
    std::vector<double> rows;
    for (std::int64_t token = 0; token < problem.seq_len; ++token) {
      const auto first = whole.begin() + ((b * problem.seq_len + token) * heads + head) * dim;
      rows.insert(rows.end(), first, first + dim);
    }
    return rows;
  };
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    for (const HeadSlot& slot : problem.slots()) {
      const auto q = head_of(problem.q, b, problem.num_heads, slot.q_head, problem.head_dim);
      const auto k = head_of(problem.k, b, problem.num_kv_heads, slot.kv_head, problem.head_dim);
      const auto v = head_of(problem.v, b, problem.num_kv_heads, slot.kv_head, problem.v_dim);
      const oracle::HeadKeys keys{k, v, problem.seq_len, problem.head_dim, problem.v_dim};
      for (std::int64_t query = 0; query < problem.seq_len; ++query) {
        const auto q_row = std::span(q).subspan(static_cast<std::size_t>(query * problem.head_dim),
                                                static_cast<std::size_t>(problem.head_dim));
        const oracle::Row row = oracle::row(mechanism, keys, q_row, query, problem.scale(), {});
        const std::int64_t index = (b * problem.seq_len + query) * problem.num_heads + slot.q_head;
        std::copy(row.o.begin(), row.o.end(), result.o.begin() + index * problem.v_dim);
        result.statistic[static_cast<std::size_t>(index)] = row.statistic;
        if (std::holds_alternative<SparseParams>(mechanism)) {
          result.kept_mass.resize(result.statistic.size());
          result.kept_mass[static_cast<std::size_t>(index)] = row.kept_mass;
        }
        result.slack = std::max(result.slack, row.slack);
      }
    }
  }
  return result;
}

/// Largest |a - b|; infinity where they differ by a NaN. Equal infinities do not differ.
inline double max_abs_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = a.size() == b.size() ? 0.0 : std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (a[i] == b[i]) continue;
    const double difference = std::abs(a[i] - b[i]);
    worst = difference >= 0.0 ? std::max(worst, difference) : std::numeric_limits<double>::infinity();
  }
  return worst;
}

inline double max_abs(const std::vector<float>& values) {
  double most = 0.0;
  for (const float value : values) most = std::max(most, static_cast<double>(std::abs(value)));
  return most;
}

}  // namespace ringscan::testing
