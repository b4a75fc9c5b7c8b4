// Linear attention with every instruction set that this machine can run, not only its best.
#include <cstdint>

#include "hwy/targets.h"
#include "tests/kernels/linear_case.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

/// While it lives, Highway believes that the machine has one instruction set.
class OnlyTarget {
 public:
  explicit OnlyTarget(std::int64_t target) { hwy::SetSupportedTargetsForTest(target); }
  ~OnlyTarget() { hwy::SetSupportedTargetsForTest(0); }
  OnlyTarget(const OnlyTarget&) = delete;
  OnlyTarget& operator=(const OnlyTarget&) = delete;
};

}  // namespace

TEST_CASE("every instruction set of this machine is right about linear attention") {
  testing::LinearProblem problem;
  problem.seq_len = 200;
  problem.head_dim = 40;
  problem.v_dim = 28;
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    const OnlyTarget only(target);
    for (const ElementType type : {ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16}) {
      problem.type = type;
      for (const double decay : {0.01, 50.0}) {
        problem.decay = decay;
        for (const LinearParams& params : {LinearParams{Decay::kToken, FeatureMap::kIdentity, Normalizer::kNone},
                                           LinearParams{Decay::kHead, FeatureMap::kElu1, Normalizer::kZ}}) {
          problem.params = params;
          problem.fill();
          INFO(hwy::TargetName(target) << ", decay " << decay);
          REQUIRE(test::error_of(problem) <= 2e-6);
        }
      }
    }
  }
}
