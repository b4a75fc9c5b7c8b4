// Exact top-k on Hopper against the float64 oracle: sizes, layouts, cuts, and scores that mislead a search.
#include <cmath>
#include <functional>
#include <limits>
#include <span>

#include "kernels/cuda/portable_attend.hpp"
#include "kernels/cuda/topk.hpp"
#include "kernels/reference/oracle.hpp"
#include "mechanism/growing_window.hpp"
#include "tests/kernels_cuda/device_partial.hpp"
#include "tests/kernels_cuda/device_tensor.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using cuda::DevicePartial;
using cuda::testing::DeviceArray;
using cuda::testing::Partial;
using cuda::testing::Tensor;

namespace {

/// An element before rounding, from a normal number: of token, head and dimension.
using Fill = std::function<float(std::int64_t token, std::int64_t dim, float normal)>;

float as_it_is(std::int64_t, std::int64_t, float normal) {
  return normal;
}

struct Case {
  const char* name = "normal";
  SparseParams params{.select = SparseSelect::kTopk, .alpha = 1.0, .exponent = 0.7};
  ElementType type = ElementType::kBfloat16;
  std::int64_t batch = 1, seq_len = 300, heads = 2, kv_heads = 1, head_dim = 64;
  Fill q = as_it_is, k = as_it_is;
  TokenRun queries{0, -1};
  std::vector<std::int64_t> cuts = {0};  ///< descending: keys [cut, last cut), near first
  std::int64_t head_gap = 0, row_gap = 0;
  TokenRun sample{0, -1};
  float scale = 0.0f;  ///< 0: 1 / sqrt(head_dim)
  bool adds = true;
  int most_rounds = 14;
  std::int64_t row_step = 1;  ///< rows compared
  std::uint32_t seed = 1;
};

class Run {
 public:
  explicit Run(const Case& problem)
      : c_(problem),
        queries_(problem.queries.end < 0 ? TokenRun{0, problem.seq_len} : problem.queries),
        q_(c_.type, {c_.batch, c_.seq_len, c_.heads, c_.head_dim}, c_.head_gap, c_.row_gap),
        k_(c_.type, {c_.batch, c_.seq_len, c_.kv_heads, c_.head_dim}, c_.head_gap, c_.row_gap),
        v_(c_.type, {c_.batch, c_.seq_len, c_.kv_heads, c_.head_dim}, c_.head_gap, c_.row_gap),
        o_(ElementType::kFloat32, {c_.batch, c_.seq_len, c_.heads, c_.head_dim}),
        out_(shape(c_.head_dim)),
        all_(shape(0)),
        rows_(cuda::search_rows_bytes(shape(0))),
        words_(cuda::search_bins_bytes(shape(0), true)),
        open_(cuda::search_open_bytes(shape(0), true)),
        workspace_(cuda::kWorkspaceBytes),
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

  /// Returns the rounds it took.
  int search() {
    const cuda::DeviceSearch search = device_search();
    cuda::portable::reset_softmax(all_.device, nullptr);
    const TokenRun sample = c_.sample.end < 0 ? TokenRun{0, c_.seq_len} : c_.sample;
    cuda::start_search(task(sample), kept_array_.as<std::int64_t>(), *std::max_element(kept_.begin(), kept_.end()),
                       search, workspace_.as<std::uint32_t>(), nullptr);
    for (int round = 1;; ++round) {
      const bool adds = round == 1 && c_.adds;
      for_each_run([&](std::size_t, const TokenRun& keys) {
        cuda::count(task(keys), search, adds ? &all_.device : nullptr, workspace_.as<std::uint32_t>(), nullptr);
      });
      cuda::portable::narrow(search, nullptr);
      cuda::check(cudaDeviceSynchronize());
      const auto open = open_.download<std::uint32_t>(1)[0];
      if (open == 0) return round;
      INFO("still open " << open << " rows after round " << round);
      REQUIRE(round < c_.most_rounds);
    }
  }

  void attend() {
    for_each_run([&](std::size_t i, const TokenRun& keys) {
      cuda::DeviceAttend launch;
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
    cuda::portable::finish_softmax(f, out_.device, c_.adds ? &all_.device : nullptr, nullptr);
    cuda::check(cudaDeviceSynchronize());
  }

  void compare() {
    const auto o = o_.download();
    const auto statistic = statistic_.download();
    const auto kept_mass = kept_mass_.download();
    double unit = 0.0;
    for (const float x : v_host_) unit = std::max(unit, std::abs(static_cast<double>(x)));
    for (std::int64_t b = 0; b < c_.batch; ++b) {
      for (std::int64_t h = 0; h < c_.heads; ++h) compare_head(b, h, unit, o, statistic, kept_mass);
    }
    INFO("o off by " << worst_o_ << " of max|v|, statistic by " << worst_statistic_);
    CHECK(worst_o_ <= cuda::testing::bound_of(c_.type));
    CHECK(worst_statistic_ <= 1e-3);
  }

  /// Where all weights are 1, their sum is the number of keys kept.
  void expect_as_many_as_wanted() {
    const auto rows = static_cast<std::size_t>(c_.batch * c_.heads * queries_.size());
    const auto sum = out_.sum.download<float>(rows);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < rows; ++i) {
      const auto wanted = static_cast<double>(kept_[i % kept_.size()]);
      if (!(std::abs(static_cast<double>(sum[i]) - wanted) < 0.4)) ++wrong;
    }
    CHECK(wrong == 0);
  }

 private:
  PartialShape shape(std::int64_t v_dim) const { return {c_.batch, queries_.size(), c_.heads, v_dim}; }
  int kv_head(std::int64_t head) const { return static_cast<int>(head / (c_.heads / c_.kv_heads)); }
  float scale() const { return c_.scale > 0.0f ? c_.scale : 1.0f / std::sqrt(static_cast<float>(c_.head_dim)); }

  std::vector<float> upload(Tensor& tensor, std::int64_t heads, const Fill& fill, std::uint32_t stream) {
    auto host =
        cuda::testing::random_rounded(c_.batch * c_.seq_len * heads * c_.head_dim, c_.type, 10 * c_.seed + stream);
    for (std::size_t i = 0; i < host.size(); ++i) {
      const auto dim = static_cast<std::int64_t>(i) % c_.head_dim;
      const auto token = static_cast<std::int64_t>(i) / (c_.head_dim * heads) % c_.seq_len;
      const float x = fill(token, dim, host[i]);
      visit_element_type(c_.type, [&](auto tag) { host[i] = to_float(from_float<decltype(tag)>(x)); });
    }
    tensor.upload(host);
    return host;
  }
  cuda::DeviceSearch device_search() const {
    return {shape(0),
            queries_.begin,
            rows_.as<cuda::SearchRow>(),
            words_.as<std::uint32_t>(),
            open_.as<std::uint32_t>(),
            true,
            scale() * 1.44269504f};
  }
  TensorView<float> rows_of(const Tensor& tensor) const {
    return {reinterpret_cast<float*>(tensor.view().row(0, queries_.begin, 0)),
            {c_.batch, queries_.size(), c_.heads, 1},
            tensor.view().strides};
  }
  AttendTask task(const TokenRun& keys) {
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
  template <typename F>
  void for_each_run(F&& f) {
    std::int64_t end = c_.seq_len;
    for (std::size_t i = 0; i < c_.cuts.size(); end = c_.cuts[i++]) f(i, TokenRun{c_.cuts[i], end});
  }
  std::vector<double> head_of(const std::vector<float>& all, std::int64_t heads, std::int64_t batch,
                              std::int64_t head) const {
    std::vector<double> rows;
    for (std::int64_t t = 0; t < c_.seq_len; ++t) {
      const auto first = all.begin() + ((batch * c_.seq_len + t) * heads + head) * c_.head_dim;
      rows.insert(rows.end(), first, first + c_.head_dim);
    }
    return rows;
  }
  void compare_head(std::int64_t b, std::int64_t h, double unit, const std::vector<float>& o,
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
  static void note(double& worst, float found, double exact, double unit, double slack) {
    if (static_cast<double>(found) == exact) return;
    const double off = std::abs(static_cast<double>(found) - exact) / unit - slack;
    worst = std::max(worst, std::isnan(off) ? std::numeric_limits<double>::infinity() : off);
  }

  const Case& c_;
  TokenRun queries_;
  Tensor q_, k_, v_, o_;
  Partial out_, all_;
  DeviceArray rows_, words_, open_, workspace_, kept_array_;
  Tensor statistic_, kept_mass_;
  std::vector<HeadSlot> slots_;
  std::vector<std::int64_t> kept_;
  std::vector<float> q_host_, k_host_, v_host_;
  double worst_o_ = 0.0, worst_statistic_ = 0.0;
};

std::string describe(const Case& c) {
  return std::string(c.name) + " " + std::string(name_of(c.type)) + " N" + std::to_string(c.seq_len) + " D" +
         std::to_string(c.head_dim) + " exponent " + std::to_string(c.params.exponent) + " cuts " +
         std::to_string(c.cuts.size()) + " seed " + std::to_string(c.seed);
}

int expect_right(const Case& problem) {
  INFO(describe(problem));
  Run run(problem);
  const int rounds = run.search();
  run.attend();
  run.compare();
  return rounds;
}

constexpr ElementType kTypes[] = {ElementType::kBfloat16, ElementType::kFloat16};

/// Whole numbers: products are exact, so that ties are ties and the oracle's choice is the only one.
float whole(std::int64_t, std::int64_t dim, float normal) {
  return dim < 8 ? std::round(normal) : 0.0f;
}

/// Inputs that make a search difficult.
std::vector<Case> difficult() {
  std::vector<Case> cases(1);
  const auto add = [&](const char* name, const Fill& q, const Fill& k) {
    Case c;
    c.name = name;
    c.q = q;
    c.k = k;
    cases.push_back(c);
  };
  const Fill one = [](auto, auto dim, auto) { return dim == 0 ? 1.0f : 0.0f; };
  const auto first = [](auto f) -> Fill {
    return [f](std::int64_t token, std::int64_t dim, float normal) { return dim == 0 ? f(token, normal) : 0.0f; };
  };
  add("whole numbers", whole, whole);
  add("all equal", one, one);
  add(
      "all zero", [](auto, auto, auto) { return 0.0f; }, as_it_is);
  add(
      "some rows zero", [](auto token, auto, float x) { return token % 3 == 0 ? 0.0f : x; }, as_it_is);
  add("zeros of both signs", one, first([](auto token, float) { return token % 2 == 0 ? 0.0f : -0.0f; }));
  add("two values", one, first([](auto token, float) { return token % 7 < 2 ? 2.0f : -1.0f; }));
  add("three values, one rare", one, first([](auto token, float) {
        return token % 97 == 5 ? 3.0f : token % 2 == 0 ? 0.5f : 0.25f;
      }));
  add("rising", one, first([](auto token, float) { return static_cast<float>(token); }));
  add("falling", one, first([](auto token, float) { return -static_cast<float>(token); }));
  add("nearest larger", as_it_is, first([](auto token, float x) { return x + static_cast<float>(token) / 256.0f; }));
  add("every eighth larger", one, first([](auto token, float x) { return token % 8 == 0 ? x + 6.0f : x; }));
  add("every eighth smaller", one, first([](auto token, float x) { return token % 8 == 0 ? x - 6.0f : x; }));
  add("heavy tails", as_it_is,
      [](auto token, auto, float x) { return x * std::exp2(static_cast<float>(token * 37 % 11 - 5)); });
  add("tiny", one, first([](auto token, float) { return 1e-30f * static_cast<float>(token % 7); }));
  add("close together", one,
      first([](auto token, float) { return 1.0f + 0x1p-7f * static_cast<float>(token * 37 % 90); }));
  return cases;
}

}  // namespace

TEST_CASE("topk: sizes off every tile edge") {
  for (const ElementType type : kTypes) {
    for (const std::int64_t head_dim : {64, 128}) {
      for (const std::int64_t seq_len : {1, 2, 63, 64, 65, 127, 128, 129, 300, 1000}) {
        Case c;
        c.type = type;
        c.head_dim = head_dim;
        c.seq_len = seq_len;
        c.seed = static_cast<std::uint32_t>(seq_len);
        expect_right(c);
      }
    }
  }
}

TEST_CASE("topk: every head_dim") {
  for (const ElementType type : kTypes) {
    for (const std::int64_t head_dim : {8, 32, 40, 96, 192, 256}) {
      Case c;
      c.type = type;
      c.head_dim = head_dim;
      c.seq_len = 1100;
      c.heads = 1;
      c.row_step = 7;
      expect_right(c);
    }
  }
}

TEST_CASE("topk: grouped heads, batches and gaps") {
  for (const ElementType type : kTypes) {
    for (const std::int64_t head_dim : {64, 128}) {
      Case c;
      c.type = type;
      c.head_dim = head_dim;
      c.batch = 2;
      c.heads = 6;
      c.kv_heads = 2;
      c.seq_len = 200;
      c.head_gap = 8;
      c.row_gap = 16;
      expect_right(c);
    }
  }
}

TEST_CASE("topk: keys over several launches, from any query run") {
  Case c;
  c.seq_len = 1200;
  c.heads = 1;
  for (const TokenRun queries : {TokenRun{0, -1}, TokenRun{930, 1131}, TokenRun{1199, 1200}}) {
    for (const Fill& fill : {Fill(as_it_is), Fill(whole)}) {
      for (const bool adds : {false, true}) {
        c.queries = queries;
        c.adds = adds;
        c.q = c.k = fill;
        c.row_step = queries.size() > 300 ? 5 : 1;
        c.cuts = {900, 450, 449, 128, 0};
        expect_right(c);
      }
    }
  }
}

TEST_CASE("topk: scores that mislead a search") {
  for (Case c : difficult()) {
    c.heads = 1;
    for (const std::int64_t seq_len : {300, 3000}) {
      for (const double exponent : {0.3, 0.7, 0.95}) {
        c.seq_len = seq_len;
        c.params.exponent = exponent;
        c.cuts = {seq_len * 2 / 3, 0};
        c.row_step = seq_len / 100;
        expect_right(c);
      }
    }
  }
}

TEST_CASE("topk: samples of few, other or no keys") {
  Case c;
  c.seq_len = 2500;
  c.heads = 1;
  c.row_step = 23;
  for (const TokenRun sample : {TokenRun{0, 0}, TokenRun{2400, 2500}, TokenRun{0, 3}, TokenRun{1000, 2100}}) {
    c.sample = sample;
    expect_right(c);
  }
}

TEST_CASE("topk: as many keys are kept as wanted") {
  for (Case c : difficult()) {
    for (const std::int64_t head_dim : {64, 128, 256}) {
      c.head_dim = head_dim;
      c.seq_len = 6000;
      c.scale = 0x1p-40f;
      c.adds = false;
      c.cuts = {4001, 0};
      INFO(describe(c));
      Run run(c);
      run.search();
      run.attend();
      run.expect_as_many_as_wanted();
    }
  }
}

TEST_CASE("topk: random scores take one round, or two where few rows were guessed wrong") {
  Case c;
  c.seq_len = 20000;
  c.head_dim = 128;
  c.row_step = 1999;
  CHECK(expect_right(c) <= 3);
}

TEST_CASE("topk: a score that is NaN is kept and seen, and the search ends") {
  Case c;
  c.seq_len = 1500;
  c.k = [](auto token, auto, float x) { return token == 700 ? std::nanf("") : x; };
  c.most_rounds = 30;
  Run run(c);
  run.search();
}
