// Linear attention with decay on the device against the float64 oracle.
#include <cmath>
#include <deque>
#include <span>

#include "kernels/cuda/linear.hpp"
#include "kernels/reference/linear_oracle.hpp"
#include "tests/kernels_cuda/device_tensor.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using cuda::DeviceLinearState;
using cuda::testing::bound_of;
using cuda::testing::DeviceArray;
using cuda::testing::random_rounded;
using cuda::testing::Tensor;

namespace {

struct Case {
  LinearParams params;
  ElementType type = ElementType::kFloat32;
  std::int64_t batch = 1, seq_len = 100, heads = 2, kv_heads = 1, head_dim = 64, v_dim = 64;
  std::vector<std::int64_t> cuts = {0};  ///< ascending: one run from each to the next
  std::int64_t gap = 0;
  float decay_scale = 0.3f;
};

class Run {
 public:
  explicit Run(const Case& problem)
      : c_(problem),
        q_(c_.type, {c_.batch, c_.seq_len, c_.heads, c_.head_dim}, c_.gap, c_.gap),
        k_(c_.type, {c_.batch, c_.seq_len, c_.kv_heads, c_.head_dim}, c_.gap, c_.gap),
        v_(c_.type, {c_.batch, c_.seq_len, c_.kv_heads, c_.v_dim}, c_.gap, c_.gap),
        g_(ElementType::kFloat32, {c_.batch, c_.seq_len, c_.heads, 1}, 0, c_.gap),
        o_(c_.type, {c_.batch, c_.seq_len, c_.heads, c_.v_dim}, c_.gap, c_.gap),
        shape_{c_.batch, c_.heads, c_.head_dim, c_.v_dim, c_.params.normalizer == Normalizer::kZ},
        state_array_(cuda::linear_state_bytes(shape_)),
        near_array_(cuda::linear_state_bytes(shape_)) {
    q_host_ = filled(q_, c_.heads * c_.head_dim, 1);
    k_host_ = filled(k_, c_.kv_heads * c_.head_dim, 2);
    v_host_ = filled(v_, c_.kv_heads * c_.v_dim, 3);
    g_host_ = random_rounded(c_.batch * c_.seq_len * c_.heads, ElementType::kFloat32, 4, c_.decay_scale);
    for (float& g : g_host_) g = -std::abs(g);
    g_.upload(g_host_);
    for (std::int64_t h = c_.heads; h-- > 0;) {
      slots_.push_back({static_cast<int>(h), static_cast<int>(h / (c_.heads / c_.kv_heads))});
      columns_.push_back(static_cast<int>(h));
      head_decays_.push_back(-0.01 * static_cast<double>(h + 1));
    }
  }

  void compute() {
    const DeviceLinearState state{shape_, state_array_.as<float>()};
    const DeviceLinearState near{shape_, near_array_.as<float>()};
    for (std::size_t i = 0; i < c_.cuts.size(); ++i) {
      const std::int64_t begin = c_.cuts[i];
      const std::int64_t count = (i + 1 < c_.cuts.size() ? c_.cuts[i + 1] : c_.seq_len) - begin;
      const DeviceArray workspace(cuda::linear_workspace_bytes(shape_, count));
      const LinearTask task = run_task(begin, count);
      cuda::linear_summarize(task, c_.params, shape_, workspace.as<void>(), nullptr);
      // What a rank hands on: its own summary, joined with those before it.
      cuda::linear_carry(shape_, count, workspace.as<void>(), {shape_, nullptr}, near, nullptr);
      if (i > 0) cuda::linear_join(near, state, nullptr);
      cuda::linear_carry(shape_, count, workspace.as<void>(), {shape_, i > 0 ? state.data : nullptr}, state, nullptr);
      cuda::linear_output(task, c_.params, shape_, workspace.as<void>(), nullptr);
      cuda::check(cudaDeviceSynchronize());
    }
  }

  void compare() {
    const auto o = o_.download();
    const std::size_t floats = cuda::linear_state_bytes(shape_) / 4;
    const auto state = state_array_.download<float>(floats);
    const auto joined = near_array_.download<float>(floats);
    double unit = 0.0;
    for (const float x : v_host_) unit = std::max(unit, std::abs(static_cast<double>(x)));
    for (std::int64_t b = 0; b < c_.batch; ++b) {
      for (std::size_t slot = 0; slot < slots_.size(); ++slot) compare_slot(b, slot, unit, o, state, joined);
    }
    INFO("o off by " << worst_o_ << ", state by " << worst_state_);
    CHECK(worst_o_ <= bound_of(c_.type));
    CHECK(worst_state_ <= bound_of(c_.type));
  }

 private:
  std::vector<float> filled(Tensor& tensor, std::int64_t width, std::uint32_t seed) {
    auto host = random_rounded(c_.batch * c_.seq_len * width, c_.type, seed);
    tensor.upload(host);
    return host;
  }
  double scale() const { return 1.0 / std::sqrt(static_cast<double>(c_.head_dim)); }
  LinearTask run_task(std::int64_t begin, std::int64_t count) {
    LinearTask task;
    task.q = AnyView(q_.view()).tokens(begin, count);
    task.k = AnyView(k_.view()).tokens(begin, count);
    task.v = AnyView(v_.view()).tokens(begin, count);
    task.slots = slots_;
    task.log_decay = AnyView(g_.view()).tokens(begin, count);
    task.decay_columns = columns_;
    task.head_log_decay = head_decays_;
    task.scale = scale();
    task.o = o_.view().tokens(begin, count);
    return task;
  }
  static std::vector<double> row(const std::vector<float>& all, std::int64_t at, std::int64_t dim) {
    return {all.begin() + at * dim, all.begin() + (at + 1) * dim};
  }
  static void note(double& worst, float found, double exact, double unit) {
    const double off = std::abs(static_cast<double>(found) - exact) / unit;
    worst = std::max(worst, std::isnan(off) ? INFINITY : off);
  }
  void compare_slot(std::int64_t b, std::size_t slot, double unit, const std::vector<float>& o,
                    const std::vector<float>& state, const std::vector<float>& joined) {
    const HeadSlot heads = slots_[slot];
    oracle::LinearRecurrence exact(c_.params, static_cast<std::size_t>(c_.head_dim), static_cast<std::size_t>(c_.v_dim),
                                   scale());
    for (std::int64_t t = 0; t < c_.seq_len; ++t) {
      const std::int64_t token = b * c_.seq_len + t;
      const double g = c_.params.decay == Decay::kToken
                           ? static_cast<double>(g_host_[static_cast<std::size_t>(token * c_.heads + heads.q_head)])
                       : c_.params.decay == Decay::kHead ? head_decays_[slot]
                                                         : 0.0;
      exact.add(row(k_host_, token * c_.kv_heads + heads.kv_head, c_.head_dim),
                row(v_host_, token * c_.kv_heads + heads.kv_head, c_.v_dim), g);
      const auto expected = exact.output(row(q_host_, token * c_.heads + heads.q_head, c_.head_dim));
      double row_unit = unit;
      for (const double x : expected) row_unit = std::max(row_unit, std::abs(x));
      for (std::int64_t d = 0; d < c_.v_dim; ++d) {
        const auto at = static_cast<std::size_t>((token * c_.heads + heads.q_head) * c_.v_dim + d);
        note(worst_o_, o[at], expected[static_cast<std::size_t>(d)], row_unit);
      }
    }
    const auto size = static_cast<std::size_t>(c_.head_dim * c_.v_dim);
    const auto stream = static_cast<std::size_t>(b * c_.heads) + slot;
    const auto streams = static_cast<std::size_t>(c_.batch * c_.heads);
    double s_unit = 1.0;
    for (const double x : exact.s()) s_unit = std::max(s_unit, std::abs(x));
    for (std::size_t i = 0; i < size; ++i) {
      note(worst_state_, state[streams + stream * size + i], exact.s()[i], s_unit);
      note(worst_state_, joined[streams + stream * size + i], exact.s()[i], s_unit);
    }
    if (!shape_.has_normalizer) return;
    const auto dim = static_cast<std::size_t>(c_.head_dim);
    for (std::size_t i = 0; i < dim; ++i) {
      note(worst_state_, state[streams * (1 + size) + stream * dim + i], exact.n()[i],
           std::max(1.0, std::abs(exact.n()[i])));
    }
  }

  const Case& c_;
  Tensor q_, k_, v_, g_, o_;
  LinearShape shape_;
  DeviceArray state_array_, near_array_;
  std::vector<HeadSlot> slots_;
  std::vector<int> columns_;
  std::vector<double> head_decays_;
  std::vector<float> q_host_, k_host_, v_host_, g_host_;
  double worst_o_ = 0.0, worst_state_ = 0.0;
};

void expect_right(const Case& problem) {
  INFO(name_of(problem.type) << " N" << problem.seq_len << " D" << problem.head_dim << "/" << problem.v_dim << " decay "
                             << static_cast<int>(problem.params.decay) << " map "
                             << static_cast<int>(problem.params.feature_map) << " normaliser "
                             << static_cast<int>(problem.params.normalizer) << " cuts " << problem.cuts.size());
  Run run(problem);
  run.compute();
  run.compare();
}

/// Calls f with every kind of parameters and type. elu1 goes with the normaliser, whose divisor is positive then.
template <typename F>
void for_all(F&& f) {
  for (const ElementType type : {ElementType::kFloat32, ElementType::kBfloat16, ElementType::kFloat16}) {
    for (const Decay decay : {Decay::kNone, Decay::kHead, Decay::kToken}) {
      for (const bool maps : {false, true}) {
        Case problem;
        problem.type = type;
        problem.params = {decay, maps ? FeatureMap::kElu1 : FeatureMap::kIdentity,
                          maps ? Normalizer::kZ : Normalizer::kNone};
        f(problem);
      }
    }
  }
}

}  // namespace

TEST_CASE("linear: sizes off every chunk's edge") {
  for_all([](Case problem) {
    for (const std::int64_t seq_len : {1, 31, 33, 64, 128, 129, 300}) {
      problem.seq_len = seq_len;
      expect_right(problem);
    }
  });
}

TEST_CASE("linear: head_dim and v_dim") {
  for_all([](Case problem) {
    for (const std::int64_t head_dim : {1, 32, 40, 96, 128, 192, 256}) {
      problem.head_dim = head_dim;
      problem.v_dim = head_dim;
      expect_right(problem);
    }
    problem.v_dim = 70;
    problem.head_dim = 64;
    expect_right(problem);
  });
}

TEST_CASE("linear: grouped heads, batches, gaps, several runs") {
  for_all([](Case problem) {
    problem.batch = 2;
    problem.heads = 4;
    problem.kv_heads = 2;
    problem.gap = 8;
    problem.head_dim = problem.v_dim = 128;
    problem.seq_len = 200;
    problem.cuts = {0, 1, 77, 77, 140};
    expect_right(problem);
  });
}

TEST_CASE("linear: many segments, strong and weak decays") {
  for (const ElementType type : {ElementType::kFloat32, ElementType::kBfloat16}) {
    for (const float decay_scale : {1e-4f, 0.1f, 30.0f}) {
      for (const Normalizer normalizer : {Normalizer::kZ, Normalizer::kNone}) {
        Case problem;
        problem.type = type;
        problem.params = {Decay::kToken, FeatureMap::kElu1, normalizer};
        problem.seq_len = 4500;
        problem.heads = 1;
        problem.head_dim = problem.v_dim = 128;
        problem.decay_scale = decay_scale;
        expect_right(problem);
      }
    }
  }
}

// What racecheck gets through in a minute.
TEST_CASE("linear: bfloat16 without a normaliser, short runs", "[short]") {
  for (const std::int64_t width : {64, 128}) {
    for (const Decay decay : {Decay::kNone, Decay::kToken}) {
      Case problem;
      problem.type = ElementType::kBfloat16;
      problem.params = {decay, FeatureMap::kIdentity, Normalizer::kNone};
      problem.heads = 2;
      problem.head_dim = problem.v_dim = width;
      problem.seq_len = 331;
      problem.cuts = {0, 1, 140};
      expect_right(problem);
    }
  }
}

TEST_CASE("linear: segments of every width, grouped heads, runs that begin anywhere") {
  for (const std::int64_t head_dim : {64, 128}) {
    for (const std::int64_t v_dim : {64, 128}) {
      for (const Decay decay : {Decay::kNone, Decay::kHead, Decay::kToken}) {
        Case problem;
        problem.type = ElementType::kBfloat16;
        problem.params = {decay, FeatureMap::kIdentity, Normalizer::kNone};
        problem.batch = 2;
        problem.heads = 4;
        problem.kv_heads = 2;
        problem.gap = 8;
        problem.head_dim = head_dim;
        problem.v_dim = v_dim;
        problem.seq_len = 2300;
        problem.cuts = {0, 1, 2100};
        problem.decay_scale = 0.05f;
        expect_right(problem);
      }
    }
  }
}

TEST_CASE("linear: states folded in one launch are those joined one after the other") {
  for (const bool has_normalizer : {false, true}) {
    const LinearShape shape{2, 3, 20, 12, has_normalizer};
    const std::size_t bytes = cuda::linear_state_bytes(shape);
    const std::size_t count = bytes / sizeof(float);
    std::deque<DeviceArray> arrays;
    std::vector<DeviceLinearState> runs;
    for (std::uint32_t i = 0; i < 20; ++i) {
      std::vector<float> host = random_rounded(static_cast<std::int64_t>(count), ElementType::kFloat32, 100 + i);
      for (std::size_t stream = 0; stream < 6; ++stream) host[stream] *= -0.1f * host[stream];  // log decays
      arrays.emplace_back(bytes).upload(host);
      runs.push_back({shape, arrays.back().as<float>()});
    }
    for (const std::size_t some : {1u, 3u, 16u, 20u}) {
      const DeviceArray joined(bytes), folded(bytes);
      joined.upload(std::vector<float>(count, 0.0f));
      for (std::size_t i = 0; i < some; ++i) cuda::linear_join({shape, joined.as<float>()}, runs[i], nullptr);
      cuda::linear_fold({shape, folded.as<float>()}, std::span(runs).first(some), nullptr);
      CHECK(folded.download<float>(count) == joined.download<float>(count));
    }
  }
}
