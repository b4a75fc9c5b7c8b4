#pragma once
// A whole problem of linear attention in memory, and its exact result.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "core/element_type.hpp"
#include "core/tensor_view.hpp"
#include "kernels/linear_kernels.hpp"
#include "kernels/reference/linear_oracle.hpp"

namespace ringscan::testing {

struct LinearProblem {
  std::int64_t batch = 1;
  std::int64_t seq_len = 0;
  std::int64_t num_heads = 2;
  std::int64_t num_kv_heads = 1;
  std::int64_t head_dim = 16;
  std::int64_t v_dim = 16;
  ElementType type = ElementType::kFloat32;
  LinearParams params;
  double decay = 0.1;  ///< mean size of a token's or head's log decay
  std::uint32_t seed = 1;

  /// Whole tensors [batch, seq_len, heads, dim], rounded to `type`; log_decay [batch, seq_len, num_heads] float32.
  std::vector<float> q, k, v, log_decay;
  std::vector<double> head_log_decay;

  void fill() {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    const auto make = [&](std::int64_t heads, std::int64_t dim) {
      std::vector<float> values(static_cast<std::size_t>(batch * seq_len * heads * dim));
      for (float& value : values) {
        const float x = normal(generator);
        visit_element_type(type, [&](auto tag) { value = to_float(from_float<decltype(tag)>(x)); });
      }
      return values;
    };
    q = make(num_heads, head_dim);
    k = make(num_kv_heads, head_dim);
    v = make(num_kv_heads, v_dim);
    // Some tokens decay much, most little: sums of very unlike sizes.
    std::exponential_distribution<float> size(1.0f);
    log_decay.resize(static_cast<std::size_t>(batch * seq_len * num_heads));
    for (float& g : log_decay) {
      const float x = size(generator);
      g = -static_cast<float>(decay) * x * x;
    }
    head_log_decay.clear();
    for (std::int64_t head = 0; head < num_heads; ++head) {
      head_log_decay.push_back(-decay * static_cast<double>(head + 1) / static_cast<double>(num_heads));
    }
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

/// The exact output of every row, [batch, seq_len, num_heads, v_dim].
inline std::vector<double> exact_linear(const LinearProblem& problem) {
  const auto row = [](const std::vector<float>& values, std::int64_t index, std::int64_t dim) {
    const auto first = values.begin() + index * dim;
    return std::vector<double>(first, first + dim);
  };
  std::vector<double> o(static_cast<std::size_t>(problem.batch * problem.seq_len * problem.num_heads * problem.v_dim));
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    for (const HeadSlot& slot : problem.slots()) {
      oracle::LinearRecurrence state(problem.params, static_cast<std::size_t>(problem.head_dim),
                                     static_cast<std::size_t>(problem.v_dim), problem.scale());
      for (std::int64_t token = 0; token < problem.seq_len; ++token) {
        const std::int64_t at = b * problem.seq_len + token;
        const std::int64_t kv_row = at * problem.num_kv_heads + slot.kv_head;
        const std::int64_t q_row = at * problem.num_heads + slot.q_head;
        const double decay = problem.params.decay == Decay::kHead
                                 ? problem.head_log_decay[static_cast<std::size_t>(slot.q_head)]
                                 : static_cast<double>(problem.log_decay[static_cast<std::size_t>(q_row)]);
        state.add(row(problem.k, kv_row, problem.head_dim), row(problem.v, kv_row, problem.v_dim), decay);
        const std::vector<double> wanted = state.output(row(problem.q, q_row, problem.head_dim));
        std::copy(wanted.begin(), wanted.end(), o.begin() + q_row * problem.v_dim);
      }
    }
  }
  return o;
}

/// The largest error over all rows, each relative to the largest |v| or, where it is larger, the row's largest |o|:
/// without decay an output grows with the sequence. NaN is infinitely wrong.
inline double linear_error(const LinearProblem& problem, std::span<const double> found,
                           std::span<const double> wanted) {
  double largest_v = 0.0;
  for (const float x : problem.v) largest_v = std::max(largest_v, static_cast<double>(std::abs(x)));
  double worst = 0.0;
  const auto dim = static_cast<std::size_t>(problem.v_dim);
  for (std::size_t row = 0; row < wanted.size() / dim; ++row) {
    double scale = largest_v;
    for (std::size_t d = 0; d < dim; ++d) scale = std::max(scale, std::abs(wanted[row * dim + d]));
    for (std::size_t d = 0; d < dim; ++d) {
      const double error = std::abs(found[row * dim + d] - wanted[row * dim + d]) / scale;
      if (!(error <= worst)) worst = std::isnan(error) ? HUGE_VAL : error;
    }
  }
  return worst;
}

}  // namespace ringscan::testing
