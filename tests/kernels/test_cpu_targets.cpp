// Every instruction set that this machine can run, not only its best.
#include <cmath>
#include <set>

#include "hwy/targets.h"
#include "kernels/cpu/fma_peak.hpp"
#include "tests/kernels/attention_case.hpp"
#include "tests/support/catch.hpp"

namespace ringscan::test {
namespace {

/// While it lives, Highway believes that the machine has one instruction set.
class OnlyTarget {
 public:
  explicit OnlyTarget(std::int64_t target) { choose(target); }
  ~OnlyTarget() { choose(0); }
  OnlyTarget(const OnlyTarget&) = delete;
  OnlyTarget& operator=(const OnlyTarget&) = delete;

 private:
  static void choose(std::int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

std::vector<AttentionCase> small_cases() {
  AttentionCase problem;
  problem.seq_len = 200;
  problem.num_heads = 2;
  problem.head_dim = 40;
  problem.v_dim = 28;
  std::vector<AttentionCase> cases;
  for (const ElementType type : {ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16}) {
    problem.type = problem.output_type = type;
    problem.mechanism = SoftmaxParams{};
    cases.push_back(problem);
    problem.mechanism = SoftmaxParams{true, 70};
    cases.push_back(problem);
    problem.mechanism = CogParams{};
    cases.push_back(problem);
    for (const SparseSelect select : {SparseSelect::kWindow, SparseSelect::kTopk}) {
      problem.mechanism = SparseParams{select, 1.0, 0.7, 1, SparseCount::kVisible};
      cases.push_back(problem);
    }
    problem.mechanism = StickBreakingParams{false, RemainderPolicy::kValue, 0.0};
    cases.push_back(problem);
  }
  problem.type = problem.output_type = ElementType::kFloat32;
  problem.mechanism = StickBreakingParams{false, RemainderPolicy::kDrop, 0.0};
  problem.seq_len = 20'001;
  problem.queries = {20'000, 20'001};
  problem.head_dim = 1;
  problem.v_dim = 2;
  problem.scale = 1.0f;
  problem.q = [](std::int64_t, std::int64_t) { return 1.0f; };
  problem.k = [](std::int64_t, std::int64_t) { return -10.0f; };
  cases.push_back(problem);
  return cases;
}

}  // namespace

TEST_CASE("Every instruction set of this machine is right") {
  std::set<std::string> devices;
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    const OnlyTarget only(target);
    const auto kernels = make_cpu_kernels();
    INFO(kernels->device());
    devices.insert(kernels->device());
    for (const AttentionCase& problem : small_cases()) {
      INFO(describe(problem));
      REQUIRE(error_of(*kernels, problem) <= 1.0);
    }
  }
  REQUIRE_FALSE(devices.empty());
}

TEST_CASE("Extreme scores and NaN on every instruction set") {
  AttentionCase problem;
  problem.seq_len = 100;
  problem.head_dim = 1;
  problem.scale = 1.0f;
  problem.q = [](std::int64_t, std::int64_t) { return 1.0f; };
  const auto extreme = [](std::int64_t j, std::int64_t) { return j % 3 == 0 ? 1e4f : (j % 3 == 1 ? 0.0f : -1e4f); };
  const auto one_nan = [](std::int64_t j, std::int64_t) { return j == 9 ? std::nanf("") : 0.0f; };
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    const OnlyTarget only(target);
    const auto kernels = make_cpu_kernels();
    INFO(kernels->device());
    for (const Mechanism& mechanism :
         {Mechanism(SoftmaxParams{}), Mechanism(StickBreakingParams{true, RemainderPolicy::kDrop, 0.0})}) {
      problem.mechanism = mechanism;
      problem.k = extreme;
      REQUIRE(error_of(*kernels, problem) <= 1.0);
      problem.k = one_nan;
      const Result result = run_case(*kernels, problem);
      for (std::size_t row = 0; row < 100; ++row) REQUIRE(std::isnan(result.o[row * 32]) == (row >= 9));
    }
  }
}

TEST_CASE("The peak is a rate") {
  const double gflops = measure_fma_peak_gflops(0.001);
  REQUIRE(std::isfinite(gflops));
  REQUIRE(gflops > 0.0);
}

}  // namespace ringscan::test
