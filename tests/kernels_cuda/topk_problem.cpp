#include "tests/kernels_cuda/topk_problem.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "kernels/cuda/portable_attend.hpp"
#include "kernels/reference/oracle.hpp"
#include "mechanism/growing_window.hpp"
#include "tests/support/catch.hpp"

namespace ringscan::cuda::testing {
namespace {

void note(double& worst, float found, double exact, double unit, double slack) {
  if (static_cast<double>(found) == exact) return;
  const double off = std::abs(static_cast<double>(found) - exact) / unit - slack;
  worst = std::max(worst, std::isnan(off) ? std::numeric_limits<double>::infinity() : off);
}

}  // namespace

std::string describe(const TopkCase& problem) {
  return std::string(problem.name) + " " + std::string(name_of(problem.type)) + " N" + std::to_string(problem.seq_len) +
         " D" + std::to_string(problem.head_dim) + " exponent " + std::to_string(problem.params.exponent) + " cuts " +
         std::to_string(problem.cuts.size()) + " seed " + std::to_string(problem.seed);
}

TopkRun::TopkRun(const TopkCase& problem)
    : c_(problem),
      queries_(problem.queries.end < 0 ? TokenRun{0, problem.seq_len} : problem.queries),
      q_(c_.type, {c_.batch, c_.seq_len, c_.heads, c_.head_dim}, c_.head_gap, c_.row_gap),
      k_(c_.type, {c_.batch, c_.seq_len, c_.kv_heads, c_.head_dim}, c_.head_gap, c_.row_gap),
      v_(c_.type, {c_.batch, c_.seq_len, c_.kv_heads, c_.head_dim}, c_.head_gap, c_.row_gap),
      o_(ElementType::kFloat32, {c_.batch, c_.seq_len, c_.heads, c_.head_dim}),
      out_(shape(c_.head_dim)),
      all_(shape(0)),
      rows_(search_rows_bytes(shape(0))),
      words_(search_bins_bytes(shape(0), true)),
      open_(search_open_bytes(shape(0), true)),
      workspace_(kWorkspaceBytes),
      kept_array_(8 * static_cast<std::size_t>(queries_.size())),
      statistic_(ElementType::kFloat32, {c_.batch, c_.seq_len, c_.heads, 1}),
      kept_mass_(ElementType::kFloat32, {c_.batch, c_.seq_len, c_.heads, 1}) {
  q_host_ = upload(q_, c_.heads, c_.q, 1);
  k_host_ = upload(k_, c_.kv_heads, c_.k, 2);
  v_host_ = upload(v_, c_.kv_heads, as_it_is, 3);
  for (std::int64_t h = c_.heads; h-- > 0;) slots_.push_back({static_cast<int>(h), kv_head(h)});
  const GrowingWindow window(c_.params, c_.seq_len);
  for (std::int64_t i = queries_.begin; i < queries_.end; ++i) kept_.push_back(window.keys_kept(i));
  kept_array_.upload(kept_);
}

template <typename F>
void TopkRun::for_each_run(F&& f) {
  std::int64_t end = c_.seq_len;
  for (std::size_t i = 0; i < c_.cuts.size(); end = c_.cuts[i++]) f(i, TokenRun{c_.cuts[i], end});
}

int TopkRun::search() {
  const DeviceSearch search = device_search();
  portable::reset_softmax(all_.device, nullptr);
  const TokenRun sample = c_.sample.end < 0 ? TokenRun{0, c_.seq_len} : c_.sample;
  start_search(task(sample), kept_array_.as<std::int64_t>(), *std::max_element(kept_.begin(), kept_.end()), search,
               workspace_.as<std::uint32_t>(), nullptr);
  for (int round = 1;; ++round) {
    const bool adds = round == 1 && c_.adds;
    for_each_run([&](std::size_t, const TokenRun& keys) {
      count(task(keys), search, adds ? &all_.device : nullptr, workspace_.as<std::uint32_t>(), nullptr);
    });
    portable::narrow(search, nullptr);
    check(cudaDeviceSynchronize());
    const auto open = open_.download<std::uint32_t>(1)[0];
    if (open == 0) return round;
    INFO("still open " << open << " rows after round " << round);
    REQUIRE(round < c_.most_rounds);
  }
}

void TopkRun::attend() {
  for_each_run([&](std::size_t i, const TokenRun& keys) {
    DeviceAttend launch;
    launch.task = task(keys);
    launch.partial = out_.device;
    launch.starts = i == 0;
    launch.workspace = workspace_.as<std::uint32_t>();
    cuda::attend(launch, device_search(), nullptr);
  });
  FinishTask f;
  f.o = o_.view().tokens(queries_.begin, queries_.size());
  f.statistic = rows_of(statistic_);
  f.slots = slots_;
  if (c_.adds) f.kept_mass = rows_of(kept_mass_);
  portable::finish_softmax(f, out_.device, c_.adds ? &all_.device : nullptr, nullptr);
  check(cudaDeviceSynchronize());
}

void TopkRun::compare() {
  const auto o = o_.download();
  const auto statistic = statistic_.download();
  const auto kept_mass = kept_mass_.download();
  double unit = 0.0;
  for (const float x : v_host_) unit = std::max(unit, std::abs(static_cast<double>(x)));
  for (std::int64_t b = 0; b < c_.batch; ++b) {
    for (std::int64_t h = 0; h < c_.heads; ++h) compare_head(b, h, unit, o, statistic, kept_mass);
  }
  INFO("o off by " << worst_o_ << " of max|v|, statistic by " << worst_statistic_);
  CHECK(worst_o_ <= bound_of(c_.type));
  CHECK(worst_statistic_ <= 1e-3);
}

void TopkRun::expect_as_many_as_wanted() {
  const auto rows = static_cast<std::size_t>(c_.batch * c_.heads * queries_.size());
  const auto sum = out_.sum.download<float>(rows);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < rows; ++i) {
    const auto wanted = static_cast<double>(kept_[i % kept_.size()]);
    if (!(std::abs(static_cast<double>(sum[i]) - wanted) < 0.4)) ++wrong;
  }
  CHECK(wrong == 0);
}

float TopkRun::scale() const {
  return c_.scale > 0.0f ? c_.scale : 1.0f / std::sqrt(static_cast<float>(c_.head_dim));
}

std::vector<float> TopkRun::upload(Tensor& tensor, std::int64_t heads, const Fill& fill, std::uint32_t stream) {
  auto host = random_rounded(c_.batch * c_.seq_len * heads * c_.head_dim, c_.type, 10 * c_.seed + stream);
  for (std::size_t i = 0; i < host.size(); ++i) {
    const auto dim = static_cast<std::int64_t>(i) % c_.head_dim;
    const auto token = static_cast<std::int64_t>(i) / (c_.head_dim * heads) % c_.seq_len;
    const float x = fill(token, dim, host[i]);
    visit_element_type(c_.type, [&](auto tag) { host[i] = to_float(from_float<decltype(tag)>(x)); });
  }
  tensor.upload(host);
  return host;
}

DeviceSearch TopkRun::device_search() const {
  return {shape(0), queries_.begin,       rows_.as<SearchRow>(), words_.as<std::uint32_t>(), open_.as<std::uint32_t>(),
          true,     scale() * 1.44269504f};
}

TensorView<float> TopkRun::rows_of(const Tensor& tensor) const {
  return {reinterpret_cast<float*>(tensor.view().row(0, queries_.begin, 0)),
          {c_.batch, queries_.size(), c_.heads, 1},
          tensor.view().strides};
}

AttendTask TopkRun::task(const TokenRun& keys) {
  AttendTask t;
  t.q = AnyView(q_.view()).tokens(queries_.begin, queries_.size());
  t.k = AnyView(k_.view()).tokens(keys.begin, keys.size());
  t.v = AnyView(v_.view()).tokens(keys.begin, keys.size());
  t.slots = slots_;
  t.query_run = queries_;
  t.key_run = keys;
  t.band = band_of(Mechanism(c_.params));
  t.scale = scale();
  return t;
}

std::vector<double> TopkRun::head_of(const std::vector<float>& all, std::int64_t heads, std::int64_t batch,
                                     std::int64_t head) const {
  std::vector<double> rows;
  for (std::int64_t t = 0; t < c_.seq_len; ++t) {
    const auto first = all.begin() + ((batch * c_.seq_len + t) * heads + head) * c_.head_dim;
    rows.insert(rows.end(), first, first + c_.head_dim);
  }
  return rows;
}

void TopkRun::compare_head(std::int64_t b, std::int64_t h, double unit, const std::vector<float>& o,
                           const std::vector<float>& statistic, const std::vector<float>& kept_mass) {
  const auto q = head_of(q_host_, c_.heads, b, h);
  const auto k = head_of(k_host_, c_.kv_heads, b, kv_head(h));
  const auto v = head_of(v_host_, c_.kv_heads, b, kv_head(h));
  const oracle::HeadKeys keys{k, v, c_.seq_len, c_.head_dim, c_.head_dim};
  const auto dim = static_cast<std::size_t>(c_.head_dim);
  for (std::int64_t i = queries_.begin; i < queries_.end; i += c_.row_step) {
    const auto q_row = std::span<const double>(q).subspan(static_cast<std::size_t>(i) * dim, dim);
    const oracle::Row exact = oracle::row(Mechanism(c_.params), keys, q_row, i, static_cast<double>(scale()), {});
    const auto row = static_cast<std::size_t>((b * c_.seq_len + i) * c_.heads + h);
    for (std::size_t d = 0; d < dim; ++d) note(worst_o_, o[row * dim + d], exact.o[d], unit, exact.slack);
    note(worst_statistic_, statistic[row], exact.statistic, std::max(1.0, std::abs(exact.statistic)), exact.slack);
    if (c_.adds) note(worst_statistic_, kept_mass[row], exact.kept_mass, 1.0, exact.slack);
  }
}

}  // namespace ringscan::cuda::testing
