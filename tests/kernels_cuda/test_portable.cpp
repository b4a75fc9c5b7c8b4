// The portable attend kernels against the float64 oracle: every mechanism, type, width, cut and join.
#include <cmath>
#include <limits>
#include <span>

#include "kernels/cuda/portable_attend.hpp"
#include "kernels/reference/oracle.hpp"
#include "mechanism/growing_window.hpp"
#include "tests/kernels_cuda/device_partial.hpp"
#include "tests/kernels_cuda/device_tensor.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using cuda::DevicePartial;
using cuda::testing::bound_of;
using cuda::testing::DeviceArray;
using cuda::testing::Partial;
using cuda::testing::random_rounded;
using cuda::testing::Tensor;
namespace portable = cuda::portable;

namespace {

struct Case {
  Mechanism mechanism = SoftmaxParams{};
  ElementType q_type = ElementType::kFloat32, kv_type = ElementType::kFloat32, o_type = ElementType::kFloat32;
  std::int64_t batch = 1, seq_len = 200, heads = 2, kv_heads = 1, head_dim = 64, v_dim = 64;
  TokenRun queries{0, -1};
  std::vector<std::int64_t> cuts = {0};  ///< descending: keys [cut, last cut), near first
  std::int64_t head_gap = 0, row_gap = 0;
  bool joins = false;   ///< the first cut in a partial of its own
  float q_step = 0.0f;  ///< q and k rounded to multiples: ties
  std::uint32_t seed = 1;
};

class Run {
 public:
  explicit Run(const Case& problem)
      : c_(problem),
        queries_(problem.queries.end < 0 ? TokenRun{0, problem.seq_len} : problem.queries),
        q_(problem.q_type, {c_.batch, c_.seq_len, c_.heads, c_.head_dim}, c_.head_gap, c_.row_gap),
        k_(problem.kv_type, {c_.batch, c_.seq_len, c_.kv_heads, c_.head_dim}, c_.head_gap, c_.row_gap),
        v_(problem.kv_type, {c_.batch, c_.seq_len, c_.kv_heads, c_.v_dim}, c_.head_gap, c_.row_gap),
        o_(problem.o_type, {c_.batch, c_.seq_len, c_.heads, c_.v_dim}, c_.head_gap, c_.row_gap),
        vector_(problem.kv_type, {1, 1, c_.heads, c_.v_dim}),
        max_deltas_(8 * static_cast<std::size_t>(queries_.size())),
        near_(shape()),
        far_(shape()),
        all_({shape().batch, shape().rows, shape().slots, 0}),
        statistic_(ElementType::kFloat32, {c_.batch, c_.seq_len, c_.heads, 1}),
        kept_mass_(ElementType::kFloat32, {c_.batch, c_.seq_len, c_.heads, 1}) {
    q_host_ = values(q_, c_.heads, c_.head_dim, c_.q_type, 1, c_.q_step);
    k_host_ = values(k_, c_.kv_heads, c_.head_dim, c_.kv_type, 2, c_.q_step);
    v_host_ = values(v_, c_.kv_heads, c_.v_dim, c_.kv_type, 3, 0.0f);
    vector_host_ = random_rounded(c_.heads * c_.v_dim, c_.kv_type, c_.seed + 4);
    vector_.upload(vector_host_);
    for (std::int64_t h = c_.heads; h-- > 0;) slots_.push_back({static_cast<int>(h), kv_head(h)});
  }

  void compute() {
    std::visit([&](const auto& params) { compute_with(params); }, c_.mechanism);
    check(cudaDeviceSynchronize());
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
    CHECK(worst_o_ <= bound_of(c_.o_type));
    CHECK(worst_statistic_ <= 1e-5);
  }

 private:
  PartialShape shape() const { return {c_.batch, queries_.size(), c_.heads, c_.v_dim}; }
  int kv_head(std::int64_t head) const { return static_cast<int>(head / (c_.heads / c_.kv_heads)); }
  std::vector<float> values(Tensor& tensor, std::int64_t heads, std::int64_t dim, ElementType type,
                            std::uint32_t stream, float step) {
    auto host = random_rounded(c_.batch * c_.seq_len * heads * dim, type, 10 * c_.seed + stream);
    if (step > 0.0f) {
      for (float& x : host) x = step * std::round(x / step);
    }
    tensor.upload(host);
    return host;
  }
  AttendTask task(const TokenRun& keys) {
    AttendTask t;
    t.q = AnyView(q_.view()).tokens(queries_.begin, queries_.size());
    t.k = AnyView(k_.view()).tokens(keys.begin, keys.size());
    t.v = AnyView(v_.view()).tokens(keys.begin, keys.size());
    t.slots = slots_;
    t.query_run = queries_;
    t.key_run = keys;
    t.band = band_of(c_.mechanism);
    t.scale = scale();
    return t;
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(c_.head_dim)); }
  template <typename F>
  void for_each_run(F&& f) {
    std::int64_t end = c_.seq_len;
    for (std::size_t i = 0; i < c_.cuts.size(); end = c_.cuts[i++]) f(i, TokenRun{c_.cuts[i], end});
  }
  template <typename Params>
  void attend_all(const Params& params, std::span<const std::int64_t> max_deltas = {}) {
    for_each_run([&](std::size_t i, const TokenRun& keys) {
      cuda::DeviceAttend launch;
      launch.task = task(keys);
      launch.task.max_deltas = max_deltas;
      const bool far = c_.joins && i > 0;
      launch.partial = far ? far_.device : near_.device;
      launch.starts = i == (far ? 1 : 0);
      portable::attend(launch, params, nullptr);
    });
  }
  FinishTask finish_task() {
    FinishTask f;
    f.o = o_.view().tokens(queries_.begin, queries_.size());
    f.statistic = {reinterpret_cast<float*>(statistic_.view().row(0, queries_.begin, 0)),
                   {c_.batch, queries_.size(), c_.heads, 1},
                   statistic_.view().strides};
    f.slots = slots_;
    f.v_own = AnyView(v_.view()).tokens(queries_.begin, queries_.size());
    f.remainder_value = vector_.view();
    return f;
  }
  void finish_lse(FinishTask f, const DevicePartial* all) {
    if (c_.joins) portable::join_softmax(near_.device, far_.device, nullptr);
    portable::finish_softmax(f, near_.device, all, nullptr);
  }

  void compute_with(const SoftmaxParams& params) {
    attend_all(params);
    finish_lse(finish_task(), nullptr);
  }
  void compute_with(const CogParams& params) {
    attend_all(params);
    finish_lse(finish_task(), nullptr);
  }
  void compute_with(const StickBreakingParams& params) {
    attend_all(params);
    if (c_.joins) portable::join_stick_breaking(near_.device, far_.device, nullptr);
    portable::finish_stick_breaking(finish_task(), params, near_.device, nullptr);
  }
  void compute_with(const LinearParams&) { FAIL("not a ring mechanism"); }
  void compute_with(const SparseParams& params) {
    const GrowingWindow window(params, c_.seq_len);
    std::vector<std::int64_t> list;
    const bool topk = params.select == SparseSelect::kTopk;
    for (std::int64_t i = queries_.begin; i < queries_.end; ++i) {
      list.push_back(topk ? window.keys_kept(i) : window.reach(i));
    }
    max_deltas_.upload(list);
    if (!topk) {
      attend_all(SoftmaxParams{}, std::span<const std::int64_t>(max_deltas_.as<std::int64_t>(), list.size()));
      finish_lse(finish_task(), nullptr);
      return;
    }
    PartialShape search_shape = shape();
    search_shape.v_dim = 0;
    const DeviceArray rows(portable::search_rows_bytes(search_shape)), bins(portable::search_bins_bytes(search_shape));
    const DeviceArray open(4);
    const portable::DeviceSearch search{search_shape, queries_.begin, rows.as<portable::SearchRow>(),
                                        bins.as<std::uint32_t>(), open.as<std::uint32_t>()};
    portable::reset_softmax(all_.device, nullptr);
    portable::start_search(task({0, c_.seed % 2 == 0 ? 0 : std::min<std::int64_t>(c_.seq_len, 100)}),
                           max_deltas_.as<std::int64_t>(), search, nullptr);
    for (int round = 0; round == 0 || open.download<std::uint32_t>(1)[0] > 0; ++round) {
      REQUIRE(round < 12);
      for_each_run([&](std::size_t, const TokenRun& keys) {
        if (round == 0) {
          portable::count_and_add(task(keys), search, all_.device, nullptr);
        } else {
          portable::count(task(keys), search, nullptr);
        }
      });
      portable::narrow(search, nullptr);
    }
    attend_all(search);
    FinishTask f = finish_task();
    f.kept_mass = {reinterpret_cast<float*>(kept_mass_.view().row(0, queries_.begin, 0)), f.statistic.shape,
                   kept_mass_.view().strides};
    finish_lse(f, &all_.device);
  }

  static std::vector<double> head_of(const std::vector<float>& all, std::int64_t heads, std::int64_t dim,
                                     std::int64_t seq_len, std::int64_t batch, std::int64_t head) {
    std::vector<double> rows;
    for (std::int64_t t = 0; t < seq_len; ++t) {
      const auto first = all.begin() + ((batch * seq_len + t) * heads + head) * dim;
      rows.insert(rows.end(), first, first + dim);
    }
    return rows;
  }
  void compare_head(std::int64_t b, std::int64_t h, double unit, const std::vector<float>& o,
                    const std::vector<float>& statistic, const std::vector<float>& kept_mass) {
    const auto q = head_of(q_host_, c_.heads, c_.head_dim, c_.seq_len, b, h);
    const auto k = head_of(k_host_, c_.kv_heads, c_.head_dim, c_.seq_len, b, kv_head(h));
    const auto v = head_of(v_host_, c_.kv_heads, c_.v_dim, c_.seq_len, b, kv_head(h));
    const std::vector<double> vector(vector_host_.begin() + h * c_.v_dim, vector_host_.begin() + (h + 1) * c_.v_dim);
    const oracle::HeadKeys keys{k, v, c_.seq_len, c_.head_dim, c_.v_dim};
    const auto dim = static_cast<std::size_t>(c_.head_dim);
    const auto* sparse = std::get_if<SparseParams>(&c_.mechanism);
    for (std::int64_t i = queries_.begin; i < queries_.end; ++i) {
      const auto q_row = std::span<const double>(q).subspan(static_cast<std::size_t>(i) * dim, dim);
      const oracle::Row exact = oracle::row(c_.mechanism, keys, q_row, i, static_cast<double>(scale()), vector);
      const auto row = static_cast<std::size_t>((b * c_.seq_len + i) * c_.heads + h);
      for (std::size_t d = 0; d < static_cast<std::size_t>(c_.v_dim); ++d) {
        note(worst_o_, o[row * static_cast<std::size_t>(c_.v_dim) + d], exact.o[d], unit, exact.slack);
      }
      // A near tie that went the other way moves the lse, too, by no more than it may move o.
      note(worst_statistic_, statistic[row], exact.statistic, std::max(1.0, std::abs(exact.statistic)), exact.slack);
      if (sparse != nullptr && sparse->select == SparseSelect::kTopk) {
        note(worst_statistic_, kept_mass[row], exact.kept_mass, 1.0, exact.slack);
      }
    }
  }
  static void note(double& worst, float found, double exact, double unit, double slack) {
    if (static_cast<double>(found) == exact) return;
    const double off = std::abs(static_cast<double>(found) - exact) / (std::isfinite(unit) ? unit : 1.0) - slack;
    worst = std::max(worst, std::isnan(off) ? std::numeric_limits<double>::infinity() : off);
  }
  static void check(cudaError_t status) { cuda::check(status); }

  const Case& c_;
  TokenRun queries_;
  Tensor q_, k_, v_, o_, vector_;
  DeviceArray max_deltas_;
  Partial near_, far_, all_;
  Tensor statistic_, kept_mass_;
  std::vector<HeadSlot> slots_;
  std::vector<float> q_host_, k_host_, v_host_, vector_host_;
  double worst_o_ = 0.0, worst_statistic_ = 0.0;
};

void expect_right(const Case& problem) {
  INFO(name_of(problem.mechanism) << " " << name_of(problem.q_type) << "/" << name_of(problem.kv_type) << " N"
                                  << problem.seq_len << " D" << problem.head_dim << "/" << problem.v_dim << " cuts "
                                  << problem.cuts.size() << " seed " << problem.seed);
  Run run(problem);
  run.compute();
  run.compare();
}

const SparseParams kWindow{.select = SparseSelect::kWindow, .alpha = 2.0};
const SparseParams kTopk{.select = SparseSelect::kTopk, .alpha = 2.0, .exponent = 0.6};

template <typename F>
void for_all(F&& f) {
  for (const Mechanism& mechanism :
       {Mechanism(SoftmaxParams{}), Mechanism(CogParams{}), Mechanism(StickBreakingParams{}),
        Mechanism(StickBreakingParams{.epsilon = 0.0}), Mechanism(kWindow), Mechanism(kTopk)}) {
    Case problem;
    problem.mechanism = mechanism;
    f(problem);
  }
}

}  // namespace

TEST_CASE("portable: sizes off every tile edge") {
  for_all([](Case problem) {
    for (const std::int64_t seq_len : {1, 2, 63, 64, 65, 129, 300}) {
      problem.seq_len = seq_len;
      problem.seed = static_cast<std::uint32_t>(seq_len);
      expect_right(problem);
    }
  });
}

TEST_CASE("portable: every head_dim and v_dim") {
  for_all([](Case problem) {
    for (const std::int64_t head_dim : {1, 3, 8, 32, 40, 96, 128, 192, 256}) {
      problem.head_dim = head_dim;
      for (const std::int64_t v_dim : {head_dim, std::int64_t{70}}) {
        problem.v_dim = v_dim;
        problem.seq_len = 150;
        expect_right(problem);
      }
    }
  });
}

TEST_CASE("portable: types, grouped heads, batches and gaps") {
  for_all([](Case problem) {
    for (const ElementType kv : {ElementType::kBfloat16, ElementType::kFloat16, ElementType::kFloat32}) {
      for (const ElementType q : {kv, ElementType::kFloat32}) {
        problem.q_type = q;
        problem.kv_type = problem.o_type = kv;
        problem.batch = 2;
        problem.heads = 6;
        problem.kv_heads = 2;
        problem.seq_len = 100;
        problem.head_gap = 3;
        problem.row_gap = 5;
        expect_right(problem);
      }
    }
  });
}

TEST_CASE("portable: partials are carried over cuts, and joined, from any query run") {
  for_all([](Case problem) {
    problem.seq_len = 400;
    for (const TokenRun queries : {TokenRun{0, -1}, TokenRun{130, 331}, TokenRun{399, 400}}) {
      for (const bool joins : {false, true}) {
        problem.queries = queries;
        problem.joins = joins;
        problem.cuts = {300, 150, 149, 0};
        expect_right(problem);
      }
    }
  });
}

TEST_CASE("portable: bands") {
  for (const Mechanism& mechanism :
       {Mechanism(SoftmaxParams{.causal = false}), Mechanism(SoftmaxParams{.window = 70}),
        Mechanism(SoftmaxParams{.causal = false, .window = 130}), Mechanism(CogParams{.causal = false}),
        Mechanism(StickBreakingParams{.attend_current = true}),
        Mechanism(StickBreakingParams{.remainder = RemainderPolicy::kValue}),
        Mechanism(StickBreakingParams{.remainder = RemainderPolicy::kVector})}) {
    Case problem;
    problem.mechanism = mechanism;
    problem.seq_len = 260;
    problem.heads = 4;
    problem.kv_heads = 2;
    expect_right(problem);
  }
}

TEST_CASE("portable: top-k among ties, with and without a sample") {
  Case problem;
  problem.head_dim = 4;
  problem.seq_len = 700;
  problem.q_step = 1.0f;
  for (const std::uint32_t seed : {1u, 2u, 3u}) {
    for (const SparseParams& params :
         {kTopk, SparseParams{}, SparseParams{.exponent = 0.4, .min_keys = 10, .count = SparseCount::kTotal}}) {
      problem.mechanism = params;
      problem.seed = seed;
      problem.cuts = {512, 100, 0};
      expect_right(problem);
    }
  }
}

TEST_CASE("portable: rows that are still open are counted") {
  const PartialShape shape{1, 100, 2, 0};
  Partial partial(shape);
  std::vector<float> log2_stick(200, -30.0f);
  log2_stick[7] = -3.0f;
  log2_stick[199] = -23.0f;
  partial.first.upload(log2_stick);
  const DeviceArray open(4);
  portable::count_open_rows(partial.device, 0x1p-24, open.as<std::uint32_t>(), nullptr);
  CHECK(open.download<std::uint32_t>(1)[0] == 2);
  portable::count_open_rows(partial.device, 0.0, open.as<std::uint32_t>(), nullptr);
  CHECK(open.download<std::uint32_t>(1)[0] == 200);
}
