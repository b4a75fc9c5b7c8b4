// Linear attention with decay on one rank, against the recurrence in float64.
#include <cmath>
#include <limits>
#include <vector>

#include "tests/kernels/linear_case.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using namespace ringscan::testing;
using ringscan::test::error_of;
using ringscan::test::has_fixed_bits;
using ringscan::test::linear_tolerance;
using ringscan::test::LinearRunner;

namespace {

LinearProblem make_problem(std::int64_t seq_len, std::int64_t head_dim, std::int64_t v_dim, const LinearParams& params,
                           double decay = 0.1) {
  LinearProblem problem;
  problem.seq_len = seq_len;
  problem.head_dim = head_dim;
  problem.v_dim = v_dim;
  problem.params = params;
  problem.decay = decay;
  problem.seed = static_cast<std::uint32_t>(seq_len * 1000 + head_dim);
  problem.fill();
  return problem;
}

const LinearParams kToken{Decay::kToken, FeatureMap::kIdentity, Normalizer::kNone};

}  // namespace

TEST_CASE("every option of linear attention equals the oracle") {
  for (const Decay decay : {Decay::kNone, Decay::kHead, Decay::kToken}) {
    for (const FeatureMap map : {FeatureMap::kIdentity, FeatureMap::kElu1}) {
      REQUIRE(error_of(make_problem(203, 24, 20, {decay, map, Normalizer::kNone})) <= linear_tolerance());
    }
    // With the identity a divisor may vanish, whatever the arithmetic.
    REQUIRE(error_of(make_problem(203, 24, 20, {decay, FeatureMap::kElu1, Normalizer::kZ})) <= linear_tolerance());
  }
}

TEST_CASE("any length and any width equal the oracle") {
  for (const std::int64_t seq_len : {1, 2, 7, 63, 64, 65, 127, 128, 129}) {
    REQUIRE(error_of(make_problem(seq_len, 16, 16, kToken)) <= linear_tolerance());
  }
  for (const std::int64_t dim : {1, 2, 3, 8, 31, 32, 33, 64, 100, 128, 255, 256}) {
    REQUIRE(error_of(make_problem(70, dim, 5, kToken)) <= linear_tolerance());
    REQUIRE(error_of(make_problem(70, 5, dim, {Decay::kToken, FeatureMap::kElu1, Normalizer::kZ})) <=
            linear_tolerance());
  }
  REQUIRE(error_of(make_problem(130, 256, 256, {Decay::kHead, FeatureMap::kElu1, Normalizer::kZ})) <=
          linear_tolerance());
}

TEST_CASE("decays from none to everything equal the oracle") {
  for (const double decay : {0.0, 1e-7, 1e-3, 1.0, 10.0, 50.0}) {
    REQUIRE(error_of(make_problem(300, 16, 16, kToken, decay)) <= linear_tolerance());
    REQUIRE(error_of(make_problem(300, 16, 16, {Decay::kHead, FeatureMap::kElu1, Normalizer::kZ}, decay)) <=
            linear_tolerance());
  }
}

TEST_CASE("a token's own decay is exact even where others have decayed by thousands") {
  LinearProblem problem = make_problem(64, 16, 16, kToken);
  for (std::size_t i = 0; i < problem.log_decay.size(); ++i) {
    problem.log_decay[i] = i < 100 ? -50.0f : -1e-3f * static_cast<float>(i % 5);
  }
  REQUIRE(error_of(problem) <= linear_tolerance() / 2);
}

TEST_CASE("a log decay of -infinity starts anew") {
  LinearProblem problem = make_problem(150, 16, 16, kToken);
  for (const std::size_t token : {0u, 10u, 64u, 65u, 130u}) {
    problem.log_decay[2 * token] = problem.log_decay[2 * token + 1] = -std::numeric_limits<float>::infinity();
  }
  REQUIRE(error_of(problem) <= linear_tolerance());
}

TEST_CASE("16-bit inputs, grouped KV heads and batch equal the oracle") {
  for (const ElementType type : {ElementType::kFloat16, ElementType::kBfloat16}) {
    LinearProblem problem = make_problem(150, 20, 12, kToken);
    problem.batch = 2;
    problem.num_heads = 6;
    problem.num_kv_heads = 3;
    problem.type = type;
    problem.fill();
    REQUIRE(error_of(problem) <= linear_tolerance());
  }
}

TEST_CASE("runs cut on the chunk grid give the same bits") {
  if (!has_fixed_bits()) return;  // another backend's promise
  const LinearProblem problem = make_problem(500, 24, 40, {Decay::kToken, FeatureMap::kElu1, Normalizer::kZ}, 0.01);
  LinearRunner whole(problem);
  LinearState state = whole.new_state();
  whole.advance(state, 0, 500, true);
  LinearRunner parts(problem);
  LinearState carried = parts.new_state();
  for (const std::int64_t begin : {0, 128, 192, 448}) {
    const std::int64_t end = begin == 0 ? 128 : begin == 128 ? 192 : begin == 192 ? 448 : 500;
    parts.advance(carried, begin, end, true);
  }
  REQUIRE(whole.output() == parts.output());
}

TEST_CASE("a joined state equals one that went over both runs, and goes through memory unchanged") {
  for (const double decay : {0.0, 0.001, 1.0}) {
    const LinearProblem problem = make_problem(301, 24, 20, {Decay::kToken, FeatureMap::kElu1, Normalizer::kZ}, decay);
    const std::vector<double> exact = exact_linear(problem);
    LinearRunner runner(problem);
    LinearState far = runner.new_state();
    runner.advance(far, 0, 101, true);
    LinearState near = runner.new_state();
    runner.advance(near, 101, 203, false);
    runner.kernels().join(near, far);
    LinearState loaded = runner.new_state();
    for (std::int64_t slot = 0; slot < problem.num_heads; ++slot) {
      std::vector<double> s(24 * 20), n(24);
      runner.kernels().load(near, 0, slot, s, n);
      runner.kernels().store(loaded, 0, slot, s, n);
      std::vector<double> s_again(24 * 20), n_again(24);
      runner.kernels().load(loaded, 0, slot, s_again, n_again);
      REQUIRE(s == s_again);
      REQUIRE(n == n_again);
    }
    runner.advance(far, 101, 203, true);
    runner.advance(loaded, 203, 301, true);
    REQUIRE(linear_error(problem, runner.output(), exact) <= linear_tolerance());
  }
}

TEST_CASE("an output that goes on from its run's summary has the bits of one that does not") {
  for (const ElementType type : {ElementType::kFloat32, ElementType::kBfloat16}) {
    for (const LinearParams& params : {LinearParams{Decay::kToken, FeatureMap::kElu1, Normalizer::kZ},
                                       LinearParams{Decay::kHead, FeatureMap::kIdentity, Normalizer::kNone}}) {
      LinearProblem problem = make_problem(2600, 64, 64, params, 0.01);
      problem.type = type;
      LinearRunner plain(problem), kept(problem);
      LinearState state = plain.new_state();
      plain.advance(state, 0, 101, true);
      plain.advance(state, 101, 2600, true);
      LinearState before = kept.new_state();
      kept.advance(before, 0, 101, true);
      Buffer summary;
      LinearState own = kept.new_state();
      kept.advance(own, 101, 2600, false, &summary);
      REQUIRE((summary.size_bytes() > 0) == kept.kernels().keeps_summaries());
      kept.advance(before, 101, 2600, true, &summary);
      REQUIRE(kept.output() == plain.output());
    }
  }
}

TEST_CASE("a quarter of a million tokens stay precise") {
  for (const double decay : {0.0, 1e-6}) {
    LinearProblem problem = make_problem(250000, 8, 8, {Decay::kHead, FeatureMap::kElu1, Normalizer::kZ}, decay);
    REQUIRE(error_of(problem) <= linear_tolerance() / 2);
    problem.params = {Decay::kHead, FeatureMap::kIdentity, Normalizer::kNone};
    REQUIRE(error_of(problem) <= linear_tolerance());
  }
}
