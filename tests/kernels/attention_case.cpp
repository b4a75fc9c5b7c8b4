#include "tests/kernels/attention_case.hpp"

#include "core/error.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <sstream>

#include "kernels/reference/oracle.hpp"
#include "mechanism/growing_window.hpp"

namespace ringscan::test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

double allowed(ElementType output_type) {
  switch (output_type) {
    case ElementType::kFloat16:
      return 2e-3;
    case ElementType::kBfloat16:
      return 1e-2;
    default:
      return 1e-5;
  }
}

/// Keeps the larger, and NaN for good.
void raise(double& worst, double error) {
  if (!(error <= worst)) worst = std::isnan(worst) ? worst : error;
}

AttendTask task_of(const AttentionCase& problem, const Activations& activations, const std::vector<HeadSlot>& slots,
                   const AttendStep& step) {
  const TokenRun queries = queries_of(problem);
  AttendTask task;
  task.q = activations.q().tokens(queries.begin, queries.size());
  task.k = activations.k().tokens(step.keys.begin, step.keys.size());
  task.v = activations.v().tokens(step.keys.begin, step.keys.size());
  task.slots = slots;
  task.query_run = queries;
  task.key_run = step.keys;
  task.band = step.band;
  task.scale = scale_of(problem);
  task.key_block = problem.key_block;
  return task;
}

AttendTask without_values(AttendTask task) {
  task.v.shape[3] = 0;
  return task;
}

/// What write(FinishTask) writes becomes the result's.
template <typename Write>
void finish_with(const AttentionCase& problem, const Activations& activations, const std::vector<HeadSlot>& slots,
                 const LseBlock* all, Result& result, Write&& write) {
  const TokenRun queries = queries_of(problem);
  const Shape4 shape{problem.batch, queries.size(), problem.num_heads, problem.v_dim};
  const Shape4 statistic_shape{problem.batch, queries.size(), problem.num_heads, 1};
  const auto count = static_cast<std::size_t>(element_count(shape));
  result.o.assign(count, kNan);
  result.statistic.assign(count / static_cast<std::size_t>(problem.v_dim), kNan);
  std::vector<std::byte> o(count * size_of(problem.output_type));
  convert_elements(result.o.data(), ElementType::kFloat32, o.data(), problem.output_type, count);
  FinishTask task;
  task.o = dense_any_view(o.data(), problem.output_type, shape);
  task.statistic = dense_view(result.statistic.data(), statistic_shape);
  if (all != nullptr) {
    result.kept_mass.assign(result.statistic.size(), kNan);
    task.kept_mass = dense_view(result.kept_mass.data(), statistic_shape);
    task.all = all;
  }
  task.slots = slots;
  task.v_own = activations.v().tokens(queries.begin, queries.size());
  task.remainder_value = activations.remainder_value();
  write(std::as_const(task));
  convert_elements(o.data(), problem.output_type, result.o.data(), ElementType::kFloat32, count);
}

/// Rounds of counting until every row's choice is exact; `all` takes the weights of all keys on the way.
int search(Kernels& kernels, const std::vector<AttendTask>& tasks, std::span<const std::int64_t> kept, TopkBlock& block,
           LseBlock& all) {
  Heartbeat heartbeat;
  const AttendTask sample = without_values(tasks.front());
  kernels.start_search(sample, kept, block);
  for (int round = 1;; ++round) {
    for (const AttendTask& task : tasks) {
      if (round == 1) {
        kernels.count_and_add(without_values(task), block, all, heartbeat);
      } else {
        kernels.count(without_values(task), block, heartbeat);
      }
    }
    if (kernels.narrow(block)) return round;
  }
}

Result run_with(Kernels& kernels, const AttentionCase& problem, const Activations& activations,
                const SparseParams& params) {
  const TokenRun queries = queries_of(problem);
  const std::vector<HeadSlot> slots = slots_of(problem);
  const GrowingWindow window(params, problem.seq_len);
  std::vector<std::int64_t> kept, deltas;
  for (std::int64_t query = queries.begin; query < queries.end; ++query) {
    kept.push_back(window.keys_kept(query));
    deltas.push_back(window.reach(query));
  }
  std::vector<AttendTask> tasks;
  for (const AttendStep& step : problem.steps) tasks.push_back(task_of(problem, activations, slots, step));
  if (tasks.empty()) tasks.push_back(task_of(problem, activations, slots, {{0, problem.seq_len}, band_of(params)}));

  PartialShape shape{problem.batch, queries.size(), static_cast<std::int64_t>(slots.size()), 0};
  LseBlock all, out;
  TopkBlock chosen;
  kernels.make(all, shape, nullptr);
  Heartbeat heartbeat;
  Result result;
  const bool is_topk = params.select == SparseSelect::kTopk;
  if (is_topk) {
    PartialShape chosen_shape = shape;
    chosen_shape.v_dim = problem.v_dim;
    kernels.make(chosen, chosen_shape, nullptr);
    result.search_rounds = search(kernels, tasks, kept, chosen, all);
  }
  shape.v_dim = problem.v_dim;
  kernels.make(out, shape, nullptr);
  if (!is_topk) {
    for (AttendTask& task : tasks) {
      kernels.attend(without_values(task), SoftmaxParams{}, all, heartbeat);
      task.max_deltas = deltas;
    }
  }
  const auto meet = [&](const auto& by) {
    const std::size_t apart = tasks.size() - (problem.ends_at_once ? 1 : 0);
    for (std::size_t i = 0; i < apart; ++i) result.stats += kernels.attend(tasks[i], by, out, heartbeat);
    const bool wants_mass = !problem.ends_at_once || problem.seq_len % 2 == 0;  // without it, too
    finish_with(problem, activations, slots, wants_mass ? &all : nullptr, result, [&](const FinishTask& rows) {
      if (!problem.ends_at_once) return kernels.finish(rows, SoftmaxParams{}, out);
      result.stats += kernels.attend_last(tasks.back(), rows, by, out, heartbeat);
    });
  };
  is_topk ? meet(chosen) : meet(SoftmaxParams{});
  return result;
}

template <typename Params>
Result run_with(Kernels& kernels, const AttentionCase& problem, const Activations& activations, const Params& params) {
  const TokenRun queries = queries_of(problem);
  const std::vector<HeadSlot> slots = slots_of(problem);
  std::vector<AttendStep> steps = problem.steps;
  if (steps.empty()) steps.push_back({{0, problem.seq_len}, band_of(params)});

  typename BlockOf<Params>::type block;
  kernels.make(block, {problem.batch, queries.size(), static_cast<std::int64_t>(slots.size()), problem.v_dim}, nullptr);
  Heartbeat heartbeat;
  Result result;
  const auto task_at = [&](const AttendStep& step) { return task_of(problem, activations, slots, step); };
  const std::size_t apart = steps.size() - (problem.ends_at_once ? 1 : 0);
  for (std::size_t i = 0; i < apart; ++i) {
    result.stats += kernels.attend(task_at(steps[i]), params, block, heartbeat);
  }
  if constexpr (std::is_same_v<Params, StickBreakingParams>) {
    if (!problem.ends_at_once) result.all_done = kernels.all_done(block);
  }
  finish_with(problem, activations, slots, nullptr, result, [&](const FinishTask& rows) {
    if (!problem.ends_at_once) return kernels.finish(rows, params, block);
    result.stats += kernels.attend_last(task_at(steps.back()), rows, params, block, heartbeat);
  });
  return result;
}

std::vector<std::int64_t> sampled_rows(std::int64_t count) {
  std::vector<std::int64_t> rows;
  const std::int64_t step = std::max<std::int64_t>(1, count / 40);
  for (std::int64_t row = 0; row < count; row += row < 3 || row > count - 4 ? 1 : step) rows.push_back(row);
  if (count > 0) rows.push_back(count - 1);
  return rows;
}

}  // namespace

Activations::Activations(const AttentionCase& problem) {
  const std::int64_t b = problem.batch;
  const std::int64_t n = problem.seq_len;
  q_ = make(problem, {b, n, problem.num_heads, problem.head_dim}, 1, problem.q);
  k_ = make(problem, {b, n, problem.num_kv_heads, problem.head_dim}, 2, problem.k);
  v_ = make(problem, {b, n, problem.num_kv_heads, problem.v_dim}, 3, problem.v);
  remainder_value_ = make(problem, {1, 1, problem.num_heads, problem.v_dim}, 4, nullptr);
  for (std::int64_t batch = 0; batch < b; ++batch) {
    for (int head = 0; head < problem.num_kv_heads; ++head) {
      for (const double x : head_of(v(), batch, head)) max_abs_v_ = std::max(max_abs_v_, std::abs(x));
    }
  }
}

Activations::Tensor Activations::make(const AttentionCase& problem, const Shape4& shape, unsigned seed,
                                      const Value& value) {
  Tensor tensor{problem.type, shape, dense_strides(shape), {}};
  const std::int64_t padding = problem.row_padding;
  tensor.strides = {shape[1] * shape[2] * (shape[3] + padding) + padding, shape[2] * (shape[3] + padding),
                    shape[3] + padding, 1};
  tensor.bytes.resize(static_cast<std::size_t>(shape[0] * tensor.strides[0]) * size_of(tensor.type));
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  MutableAnyView to{tensor.bytes.data(), tensor.type, shape, tensor.strides};
  // What lies between rows must not be read.
  const std::vector<float> poison(tensor.bytes.size() / size_of(tensor.type), kNan);
  convert_elements(poison.data(), ElementType::kFloat32, to.data, tensor.type, poison.size());
  std::vector<float> row(static_cast<std::size_t>(shape[3]));
  for (std::int64_t batch = 0; batch < shape[0]; ++batch) {
    for (std::int64_t token = 0; token < shape[1]; ++token) {
      for (std::int64_t head = 0; head < shape[2]; ++head) {
        for (std::size_t i = 0; i < row.size(); ++i) {
          row[i] = value ? value(token, static_cast<std::int64_t>(i)) : normal(random);
        }
        convert_elements(row.data(), ElementType::kFloat32, to.row(batch, token, head), tensor.type, row.size());
      }
    }
  }
  return tensor;
}

std::vector<double> Activations::head_of(const AnyView& view, std::int64_t batch, std::int64_t head) const {
  const auto dim = static_cast<std::size_t>(view.shape[3]);
  std::vector<double> rows(static_cast<std::size_t>(view.shape[1]) * dim);
  for (std::int64_t token = 0; token < view.shape[1]; ++token) {
    convert_elements(view.row(batch, token, head), view.type, rows.data() + static_cast<std::size_t>(token) * dim,
                     ElementType::kFloat64, dim);
  }
  return rows;
}

TokenRun queries_of(const AttentionCase& problem) {
  return problem.queries.begin < 0 ? TokenRun{0, problem.seq_len} : problem.queries;
}

float scale_of(const AttentionCase& problem) {
  return problem.scale != 0.0f ? problem.scale : 1.0f / std::sqrt(static_cast<float>(problem.head_dim));
}

std::vector<HeadSlot> slots_of(const AttentionCase& problem) {
  if (!problem.slots.empty()) return problem.slots;
  std::vector<HeadSlot> slots;
  for (int head = 0; head < problem.num_heads; ++head) {
    slots.push_back({head, head / (problem.num_heads / problem.num_kv_heads)});
  }
  return slots;
}

Result run_case(Kernels& kernels, const AttentionCase& problem, const Activations& activations) {
  return std::visit(
      [&](const auto& params) -> Result {
        // What is not on the ring has no block, and tests of its own.
        using Params = std::decay_t<decltype(params)>;
        constexpr bool has_block = requires {
          typename BlockOf<Params>::type;
        };
        if constexpr (has_block || std::is_same_v<Params, SparseParams>) {
          return run_with(kernels, problem, activations, params);
        } else {
          throw failure("these cases are of mechanisms on the ring");
        }
      },
      problem.mechanism);
}

double worst_error(const AttentionCase& problem, const Activations& activations, const Result& result) {
  const TokenRun queries = queries_of(problem);
  const auto head_dim = static_cast<std::size_t>(problem.head_dim);
  const auto v_dim = static_cast<std::size_t>(problem.v_dim);
  double worst = 0.0;
  for (std::int64_t batch = 0; batch < problem.batch; ++batch) {
    for (const HeadSlot& slot : slots_of(problem)) {
      const auto q = activations.head_of(activations.q(), batch, slot.q_head);
      const auto k = activations.head_of(activations.k(), batch, slot.kv_head);
      const auto v = activations.head_of(activations.v(), batch, slot.kv_head);
      const auto b = activations.head_of(activations.remainder_value(), 0, slot.q_head);
      const oracle::HeadKeys keys{k, v, problem.seq_len, problem.head_dim, problem.v_dim};
      for (const std::int64_t row : sampled_rows(queries.size())) {
        const std::int64_t query = queries.begin + row;
        const auto q_row = std::span(q).subspan(static_cast<std::size_t>(query) * head_dim, head_dim);
        const oracle::Row want = oracle::row(problem.mechanism, keys, q_row, query, scale_of(problem), b);
        const auto at = static_cast<std::size_t>((batch * queries.size() + row) * problem.num_heads + slot.q_head);
        for (std::size_t i = 0; i < v_dim; ++i) {
          const double error = std::abs(double{result.o[at * v_dim + i]} - want.o[i]);
          raise(worst, error / ((allowed(problem.output_type) + want.slack) * activations.max_abs_v()));
        }
        if (!result.kept_mass.empty()) raise(worst, std::abs(result.kept_mass[at] - want.kept_mass) / 1e-5);
        const double statistic = result.statistic[at];
        if (statistic == want.statistic) continue;  // -inf too
        raise(worst, std::abs(statistic - want.statistic) / (1e-5 * std::max(1.0, std::abs(want.statistic))));
      }
    }
  }
  return worst;
}

double error_of(Kernels& kernels, const AttentionCase& problem) {
  const Activations activations(problem);
  return worst_error(problem, activations, run_case(kernels, problem, activations));
}

std::string describe(const AttentionCase& problem) {
  std::ostringstream text;
  text << name_of(problem.mechanism) << " batch " << problem.batch << " seq_len " << problem.seq_len << " heads "
       << problem.num_heads << "/" << problem.num_kv_heads << " head_dim " << problem.head_dim << " v_dim "
       << problem.v_dim << " type " << name_of(problem.type) << " key_block " << problem.key_block;
  return text.str();
}

}  // namespace ringscan::test
