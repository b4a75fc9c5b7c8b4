// Both mechanisms, over shapes, bands and element types, against the oracle.
#include "tests/kernels/attention_case.hpp"
#include "tests/kernels/kernels_under_test.hpp"
#include "tests/support/catch.hpp"

namespace ringscan::test {
namespace {

StickBreakingParams exact_stick(bool attend_current = false) {
  StickBreakingParams params;
  params.attend_current = attend_current;
  params.epsilon = 0.0;
  return params;
}

void require_right(const AttentionCase& problem) {
  const auto kernels = make_kernels_under_test();
  INFO(describe(problem));
  REQUIRE(error_of(*kernels, problem) <= 1.0);
}

}  // namespace

TEST_CASE("Any length is right, on both sides of every tile edge") {
  for (const std::int64_t seq_len : {1, 2, 7, 63, 64, 65, 127, 128, 129, 200, 513}) {
    AttentionCase problem;
    problem.seq_len = seq_len;
    for (const Mechanism& mechanism :
         {Mechanism(SoftmaxParams{}), Mechanism(CogParams{}), Mechanism(exact_stick()), Mechanism(exact_stick(true))}) {
      problem.mechanism = mechanism;
      require_right(problem);
    }
  }
}

TEST_CASE("Any head_dim and v_dim is right") {
  AttentionCase problem;
  problem.seq_len = 130;
  for (const std::int64_t head_dim : {1, 3, 32, 40, 64, 96, 128, 192, 256}) {
    for (const std::int64_t v_dim : {head_dim, std::int64_t{1}, std::int64_t{20}, std::int64_t{256}}) {
      problem.head_dim = head_dim;
      problem.v_dim = v_dim;
      for (const Mechanism& mechanism :
           {Mechanism(SoftmaxParams{}), Mechanism(CogParams{}), Mechanism(exact_stick())}) {
        problem.mechanism = mechanism;
        require_right(problem);
      }
    }
  }
}

TEST_CASE("cog: signs, causal off, large scores, and scores of 0 that count without weight") {
  AttentionCase problem;
  problem.seq_len = 300;
  for (const bool causal : {true, false}) {
    problem.mechanism = CogParams{causal};
    for (const float scale : {0.0f, 1.0f, 2.0f}) {
      problem.scale = scale;
      require_right(problem);
    }
  }
  problem.scale = 1.0f;
  problem.head_dim = 1;
  problem.q = [](std::int64_t, std::int64_t) { return 1.0f; };
  problem.k = [](std::int64_t token, std::int64_t) { return static_cast<float>(token % 3 - 1); };
  require_right(problem);
  problem.k = [](std::int64_t, std::int64_t) { return 0.0f; };
  const auto kernels = make_kernels_under_test();
  const Result result = run_case(*kernels, problem);
  for (const float o : result.o) REQUIRE(o == 0.0f);
  REQUIRE(std::abs(result.statistic.back() - std::log(300.0f)) < 1e-5f);
}

TEST_CASE("Bands: causal off and windows") {
  AttentionCase problem;
  problem.seq_len = 300;
  for (const bool causal : {true, false}) {
    for (const std::int64_t window : {0, 1, 7, 64, 100}) {
      problem.mechanism = SoftmaxParams{causal, window};
      require_right(problem);
    }
  }
}

TEST_CASE("Heads: grouped, in any order, some left out, several batches, rows apart") {
  AttentionCase problem;
  problem.seq_len = 150;
  problem.batch = 2;
  problem.num_heads = 6;
  problem.num_kv_heads = 2;
  problem.head_dim = 24;
  problem.v_dim = 36;
  problem.row_padding = 5;
  for (const auto& slots : {std::vector<HeadSlot>{}, std::vector<HeadSlot>{{5, 1}, {0, 0}, {3, 1}, {1, 0}},
                            std::vector<HeadSlot>{{4, 0}}}) {
    problem.slots = slots;
    problem.mechanism = SoftmaxParams{};
    require_right(problem);
    problem.mechanism = exact_stick();
    require_right(problem);
  }
}

TEST_CASE("Rows of heads without a slot are left alone") {
  AttentionCase problem;
  problem.num_heads = 3;
  problem.slots = {{1, 0}};
  problem.mechanism = SoftmaxParams{};
  const auto kernels = make_kernels_under_test();
  const Result result = run_case(*kernels, problem);
  for (std::size_t row = 0; row < result.statistic.size(); ++row) {
    REQUIRE(std::isnan(result.statistic[row]) == (row % 3 != 1));
    REQUIRE(std::isnan(result.o[row * 32]) == (row % 3 != 1));
  }
}

TEST_CASE("Element types in and out") {
  AttentionCase problem;
  problem.seq_len = 140;
  problem.head_dim = 40;
  problem.v_dim = 19;
  for (const ElementType type : {ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16}) {
    for (const ElementType output_type :
         {ElementType::kFloat64, ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16}) {
      problem.type = type;
      problem.output_type = output_type;
      problem.mechanism = SoftmaxParams{};
      require_right(problem);
      problem.mechanism = exact_stick(true);
      require_right(problem);
    }
  }
}

TEST_CASE("What is left of the stick: dropped, for the own value, for a vector") {
  AttentionCase problem;
  problem.seq_len = 100;
  problem.num_heads = 4;
  problem.num_kv_heads = 2;
  problem.scale = 0.01f;  // so that much is left
  for (const RemainderPolicy policy : {RemainderPolicy::kDrop, RemainderPolicy::kValue, RemainderPolicy::kVector}) {
    StickBreakingParams params = exact_stick();
    params.remainder = policy;
    problem.mechanism = params;
    require_right(problem);
  }
}

TEST_CASE("The first row of strict stick-breaking sees no key") {
  AttentionCase problem;
  problem.mechanism = exact_stick();
  const auto kernels = make_kernels_under_test();
  const Result result = run_case(*kernels, problem);
  REQUIRE(result.statistic[0] == 1.0f);
  for (std::size_t i = 0; i < 32; ++i) REQUIRE(result.o[i] == 0.0f);
}

TEST_CASE("Rows that see no key, and runs of nothing") {
  const auto kernels = make_kernels_under_test();
  AttentionCase problem;
  problem.seq_len = 200;
  problem.queries = {10, 90};
  for (const Mechanism& mechanism : {Mechanism(SoftmaxParams{}), Mechanism(exact_stick())}) {
    problem.mechanism = mechanism;
    // Keys behind all queries; no keys; both.
    for (const auto& steps :
         {std::vector<AttendStep>{{{100, 200}, band_of(mechanism)}}, std::vector<AttendStep>{{{5, 5}, {}}},
          std::vector<AttendStep>{{{100, 200}, band_of(mechanism)}, {{0, 0}, band_of(mechanism)}}}) {
      problem.steps = steps;
      const Result result = run_case(*kernels, problem);
      const float want =
          std::holds_alternative<SoftmaxParams>(mechanism) ? -std::numeric_limits<float>::infinity() : 1.0f;
      for (const float statistic : result.statistic) REQUIRE(statistic == want);
      for (const float x : result.o) REQUIRE(x == 0.0f);
      REQUIRE(result.stats.pairs == 0);
      REQUIRE(result.stats.tiles_computed + result.stats.tiles_skipped == 0);
    }
    problem.steps = {};
    problem.queries = {10, 10};
    const Result nothing = run_case(*kernels, problem);
    REQUIRE(nothing.o.empty());
    REQUIRE((nothing.all_done || std::holds_alternative<SoftmaxParams>(mechanism)));
    problem.queries = {10, 90};
  }
}

TEST_CASE("Extreme scores make neither overflow nor NaN") {
  AttentionCase problem;
  problem.seq_len = 150;
  problem.head_dim = 1;
  problem.scale = 1.0f;
  problem.q = [](std::int64_t, std::int64_t) { return 1.0f; };
  const std::vector<std::function<float(std::int64_t, std::int64_t)>> patterns = {
      [](std::int64_t j, std::int64_t) { return j % 3 == 0 ? 1e4f : (j % 3 == 1 ? 0.0f : -1e4f); },
      [](std::int64_t j, std::int64_t) { return static_cast<float>(j - 75) * 100.0f; },  // largest last
      [](std::int64_t j, std::int64_t) { return static_cast<float>(75 - j) * 100.0f; },  // largest first
      [](std::int64_t, std::int64_t) { return 1e4f; },
      [](std::int64_t, std::int64_t) { return -1e4f; },
      [](std::int64_t, std::int64_t) { return 0.0f; },
      [](std::int64_t j, std::int64_t) { return j == 40 ? 1e4f : -1e4f; },
  };
  for (const auto& pattern : patterns) {
    problem.k = pattern;
    for (const Mechanism& mechanism : {Mechanism(SoftmaxParams{}), Mechanism(SoftmaxParams{false, 0}),
                                       Mechanism(exact_stick()), Mechanism(exact_stick(true))}) {
      problem.mechanism = mechanism;
      require_right(problem);
    }
  }
}

TEST_CASE("A NaN reaches the rows that see it") {
  AttentionCase problem;
  problem.seq_len = 200;
  problem.k = [](std::int64_t j, std::int64_t) { return j == 30 ? std::numeric_limits<float>::quiet_NaN() : 0.1f; };
  const auto kernels = make_kernels_under_test();
  for (const Mechanism& mechanism : {Mechanism(SoftmaxParams{}), Mechanism(exact_stick())}) {
    problem.mechanism = mechanism;
    const Result result = run_case(*kernels, problem);
    for (std::size_t row = 0; row < 200; ++row) {
      const bool sees = band_of(mechanism).sees(static_cast<std::int64_t>(row), 30);
      REQUIRE(std::isnan(result.o[row * 32]) == sees);
      REQUIRE(std::isnan(result.statistic[row]) == sees);
    }
  }
}

}  // namespace ringscan::test
