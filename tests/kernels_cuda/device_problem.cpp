#include "tests/kernels_cuda/device_problem.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <random>
#include <thread>

#include "kernels/cuda/check.hpp"
#include "kernels/reference/oracle.hpp"
#include "mechanism/growing_window.hpp"
#include "tests/kernels_cuda/device_tensor.hpp"

namespace ringscan::cuda::testing {
namespace {

/// [batch, seq_len, heads, head_dim] of 16-bit elements in the problem's layout.
class DeviceTensor {
 public:
  DeviceTensor(const Problem& problem, std::int64_t heads)
      : head_dim_(problem.head_dim),
        head_stride_(problem.head_dim + problem.head_gap),
        row_elements_(heads * head_stride_),
        shape_{problem.batch, problem.seq_len, heads, problem.head_dim},
        token_stride_(problem.token_stride > 0 ? problem.token_stride : row_elements_),
        type_(problem.type),
        array_(static_cast<std::size_t>(2 * problem.batch * problem.seq_len * token_stride_)) {}

  void upload(const std::vector<float>& values) {
    std::vector<std::uint16_t> rows(static_cast<std::size_t>(num_tokens() * row_elements_), 0xFFFF);
    for_each_row([&](std::int64_t source, std::int64_t target) {
      convert_elements(values.data() + source, ElementType::kFloat32, rows.data() + target, type_,
                       static_cast<std::size_t>(head_dim_));
    });
    check(cudaMemcpy2D(array_.as<void>(), pitch(), rows.data(), width(), width(),
                       static_cast<std::size_t>(num_tokens()), cudaMemcpyHostToDevice));
  }
  std::vector<float> download() const {
    std::vector<std::uint16_t> rows(static_cast<std::size_t>(num_tokens() * row_elements_));
    std::vector<float> values(static_cast<std::size_t>(element_count(shape_)));
    check(cudaMemcpy2D(rows.data(), width(), array_.as<void>(), pitch(), width(),
                       static_cast<std::size_t>(num_tokens()), cudaMemcpyDeviceToHost));
    for_each_row([&](std::int64_t source, std::int64_t target) {
      convert_elements(rows.data() + target, type_, values.data() + source, ElementType::kFloat32,
                       static_cast<std::size_t>(head_dim_));
    });
    return values;
  }
  MutableAnyView view() const {
    return {array_.as<std::byte>(), type_, shape_, {shape_[1] * token_stride_, token_stride_, head_stride_, 1}};
  }

 private:
  std::int64_t num_tokens() const { return shape_[0] * shape_[1]; }
  std::size_t width() const { return static_cast<std::size_t>(2 * row_elements_); }
  std::size_t pitch() const { return static_cast<std::size_t>(2 * token_stride_); }
  template <typename F>
  void for_each_row(F&& f) const {
    for (std::int64_t row = 0; row < num_tokens() * shape_[2]; ++row) f(row * head_dim_, row * head_stride_);
  }

  std::int64_t head_dim_, head_stride_, row_elements_;
  Shape4 shape_;
  std::int64_t token_stride_;
  ElementType type_;
  DeviceArray array_;
};

std::vector<float> random_values(const Problem& problem, std::int64_t heads, std::uint32_t stream, float scale,
                                 float first) {
  std::mt19937 generator(problem.seed * 7919 + stream);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(problem.batch * problem.seq_len * heads * problem.head_dim));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const bool is_first = i % static_cast<std::size_t>(problem.head_dim) == 0;
    const float x = is_first && first != 0.0f ? first : scale * normal(generator);
    visit_element_type(problem.type, [&](auto tag) { values[i] = to_float(from_float<decltype(tag)>(x)); });
  }
  return values;
}

void make_zero_keys(const Problem& problem, std::vector<float>& q, std::vector<float>& k) {
  const std::int64_t every = problem.zero_key_every;
  if (every == 0) return;
  for (float& x : q) x = std::abs(x);
  const std::int64_t of_token = problem.num_kv_heads * problem.head_dim;
  for (std::int64_t row = 0; row < problem.batch * problem.seq_len; ++row) {
    if (row % problem.seq_len % every == every - 1) std::fill_n(k.begin() + row * of_token, of_token, -0.0f);
  }
}

std::vector<double> head_of(const Problem& problem, const std::vector<float>& values, std::int64_t heads,
                            std::int64_t batch, std::int64_t head) {
  std::vector<double> rows;
  for (std::int64_t token = 0; token < problem.seq_len; ++token) {
    const auto first = values.begin() + ((batch * problem.seq_len + token) * heads + head) * problem.head_dim;
    rows.insert(rows.end(), first, first + problem.head_dim);
  }
  return rows;
}

float scale_of(const Problem& problem) {
  return 1.0f / std::sqrt(static_cast<float>(problem.head_dim));
}
TokenRun queries_of(const Problem& problem) {
  return problem.queries.end < 0 ? TokenRun{0, problem.seq_len} : problem.queries;
}

/// |a - b| over `unit`; 0 for equal infinities, infinity for a NaN.
double difference(double a, double b, double unit) {
  if (a == b) return 0.0;
  const double d = std::abs(a - b) / unit;
  return d >= 0.0 ? d : std::numeric_limits<double>::infinity();
}

struct Inputs {
  std::vector<float> q, k, v;
};
struct Outputs {
  std::vector<float> o;
  std::vector<float> statistic;  ///< [batch, query rows, heads]
};

/// Compares the rows `first`, `first + step`, ... of one head.
void compare_head(const Problem& problem, const Inputs& in, const Outputs& out, std::int64_t batch, std::int64_t head,
                  double unit, std::int64_t first, std::int64_t step, Errors& errors) {
  const std::int64_t kv_head = head / (problem.num_heads / problem.num_kv_heads);
  const auto q = head_of(problem, in.q, problem.num_heads, batch, head);
  const auto k = head_of(problem, in.k, problem.num_kv_heads, batch, kv_head);
  const auto v = head_of(problem, in.v, problem.num_kv_heads, batch, kv_head);
  const oracle::HeadKeys keys{k, v, problem.seq_len, problem.head_dim, problem.head_dim};
  const TokenRun queries = queries_of(problem);
  const bool lse = has_lse(mechanism_of(problem));
  for (std::int64_t i = queries.begin + first; i < queries.end; i += step) {
    const auto q_row = std::span(q).subspan(static_cast<std::size_t>(i * problem.head_dim),
                                            static_cast<std::size_t>(problem.head_dim));
    const oracle::Row exact =
        oracle::row(mechanism_of(problem), keys, q_row, i, static_cast<double>(scale_of(problem)), {});
    const std::int64_t row = (batch * problem.seq_len + i) * problem.num_heads + head;
    for (std::int64_t d = 0; d < problem.head_dim; ++d) {
      const double o = static_cast<double>(out.o[static_cast<std::size_t>(row * problem.head_dim + d)]);
      errors.o = std::max(errors.o, difference(o, exact.o[static_cast<std::size_t>(d)], unit));
    }
    const std::int64_t at = (batch * queries.size() + i - queries.begin) * problem.num_heads + head;
    const double statistic_unit = lse ? std::max(1.0, std::abs(exact.statistic)) : 1.0;
    errors.statistic =
        std::max(errors.statistic, difference(static_cast<double>(out.statistic[static_cast<std::size_t>(at)]),
                                              exact.statistic, std::isfinite(statistic_unit) ? statistic_unit : 1.0));
  }
}

Errors compare(const Problem& problem, const Inputs& in, const Outputs& out) {
  double unit = 0.0;
  for (const float x : in.v) unit = std::max(unit, static_cast<double>(std::abs(x)));
  const auto num_threads = static_cast<std::int64_t>(std::max(1u, std::thread::hardware_concurrency()));
  Errors worst;
  std::mutex mutex;
  std::vector<std::thread> threads;
  for (std::int64_t t = 0; t < num_threads; ++t) {
    threads.emplace_back([&, t] {
      Errors mine;
      for (std::int64_t b = 0; b < problem.batch; ++b) {
        for (std::int64_t h = 0; h < problem.num_heads; ++h) {
          compare_head(problem, in, out, b, h, unit, t, num_threads, mine);
        }
      }
      const std::lock_guard lock(mutex);
      worst.o = std::max(worst.o, mine.o);
      worst.statistic = std::max(worst.statistic, mine.statistic);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return worst;
}

std::vector<HeadSlot> slots_of(const Problem& problem) {
  std::vector<HeadSlot> slots;
  // Backwards, so that a slot's place is not its head.
  for (std::int64_t h = problem.num_heads; h-- > 0;) {
    slots.push_back({static_cast<int>(h), static_cast<int>(h / (problem.num_heads / problem.num_kv_heads))});
  }
  return slots;
}

template <typename Params>
void launch_attend(const DeviceAttend& launch, const Params& params) {
  attend(launch, params, nullptr);
}
void launch_attend(const DeviceAttend& launch, const SparseParams&) {
  attend(launch, SoftmaxParams{}, nullptr);
}

/// How far each query reaches, where that differs by row.
std::vector<std::int64_t> max_deltas_of(const Problem& problem) {
  std::vector<std::int64_t> list;
  if (const auto* params = std::get_if<SparseParams>(&problem.mechanism)) {
    const GrowingWindow window(*params, problem.seq_len);
    for (std::int64_t i = queries_of(problem).begin; i < queries_of(problem).end; ++i) list.push_back(window.reach(i));
  }
  return list;
}

}  // namespace

double bound(ElementType type) {
  return type == ElementType::kBfloat16 ? 1e-2 : 2e-3;
}

Errors run_and_compare(const Problem& problem) {
  const float q_first = problem.score_shift == 0.0f ? 0.0f : std::copysign(8.0f, problem.score_shift);
  const float k_first = problem.score_shift == 0.0f ? 0.0f : std::abs(problem.score_shift) / 8.0f;
  Inputs in{random_values(problem, problem.num_heads, 1, problem.input_scale, q_first),
            random_values(problem, problem.num_kv_heads, 2, problem.input_scale, k_first),
            random_values(problem, problem.num_kv_heads, 3, 1.0f, 0.0f)};
  make_zero_keys(problem, in.q, in.k);
  DeviceTensor q(problem, problem.num_heads), k(problem, problem.num_kv_heads), v(problem, problem.num_kv_heads);
  const DeviceTensor o(problem, problem.num_heads);
  q.upload(in.q);
  k.upload(in.k);
  v.upload(in.v);

  const TokenRun queries = queries_of(problem);
  const auto slots = slots_of(problem);
  const PartialShape shape{problem.batch, queries.size(), problem.num_heads, problem.head_dim};
  const auto rows = static_cast<std::size_t>(problem.batch * queries.size() * problem.num_heads);
  const DeviceArray out(4 * rows * static_cast<std::size_t>(problem.head_dim)), first(4 * rows), sum(4 * rows);
  const DeviceArray statistic(4 * rows), workspace(kWorkspaceBytes);

  DeviceAttend launch;
  launch.task.q = AnyView(q.view()).tokens(queries.begin, queries.size());
  launch.task.slots = slots;
  launch.task.query_run = queries;
  launch.task.band = band_of(mechanism_of(problem));
  launch.task.scale = scale_of(problem);
  const auto max_deltas = max_deltas_of(problem);
  const DeviceArray max_deltas_array(8 * max_deltas.size());
  max_deltas_array.upload(max_deltas);
  launch.task.max_deltas = {max_deltas_array.as<std::int64_t>(), max_deltas.size()};
  launch.partial = {shape, out.as<float>(), first.as<float>(), sum.as<float>()};
  launch.finish = {o.view().tokens(queries.begin, queries.size()),
                   dense_view(statistic.as<float>(), {problem.batch, queries.size(), problem.num_heads, 1})};
  launch.workspace = workspace.as<std::uint32_t>();
  std::vector<std::int64_t> cuts = problem.key_cuts;
  cuts.push_back(0);
  Errors errors;
  std::int64_t end = problem.seq_len;
  for (std::size_t i = 0; i < cuts.size(); end = cuts[i++]) {
    launch.task.key_run = {cuts[i], end};
    launch.task.k = AnyView(k.view()).tokens(cuts[i], end - cuts[i]);
    launch.task.v = AnyView(v.view()).tokens(cuts[i], end - cuts[i]);
    launch.starts = i == 0;
    launch.finishes = i + 1 == cuts.size();
    std::visit([&](const auto& params) { launch_attend(launch, params); }, problem.mechanism);
    std::uint32_t counts[2];
    check(cudaMemcpy(counts, workspace.as<void>(), sizeof counts, cudaMemcpyDeviceToHost));
    errors.tiles_loaded += counts[1];
  }
  Outputs result{o.download(), std::vector<float>(rows)};
  check(cudaMemcpy(result.statistic.data(), statistic.as<void>(), 4 * rows, cudaMemcpyDeviceToHost));
  const Errors found = compare(problem, in, result);
  return {found.o, found.statistic, errors.tiles_loaded};
}

}  // namespace ringscan::cuda::testing
