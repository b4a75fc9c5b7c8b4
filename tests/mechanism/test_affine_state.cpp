// The laws that let a sequence of states be cut into runs anywhere.
#include "mechanism/affine_state.hpp"

#include <cmath>
#include <cstddef>
#include <random>
#include <vector>

#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

/// A state of one element.
struct State {
  AffineState affine = AffineState::identity();
  StateElement element;

  void join_far(const State& far) {
    const SplitFactor factor = affine.join_far(far.affine);
    StateElement joined = far.element;
    joined.decay_and_add(factor, element);
    element = joined;
  }
  double value() const { return static_cast<double>(element.high) + static_cast<double>(element.low); }
};

State token(double log_decay, double update) {
  const SplitFactor split = SplitFactor::of(update);
  return {{log_decay}, {split.high, split.low}};
}

State random_token(std::mt19937& random, double decay) {
  std::normal_distribution<double> normal;
  return token(-decay * std::abs(normal(random)), normal(random));
}

bool near(double a, double b, double bound) {
  return std::abs(a - b) <= bound;
}

}  // namespace

TEST_CASE("joining states is associative") {
  std::mt19937 random(1);
  for (const double decay : {0.0, 0.01, 1.0, 50.0}) {
    for (int repeat = 0; repeat < 200; ++repeat) {
      const State a = random_token(random, decay), b = random_token(random, decay), c = random_token(random, decay);
      State left = b;  // (a b) c
      left.join_far(a);
      State first = c;
      first.join_far(left);
      State right = c;  // a (b c)
      right.join_far(b);
      right.join_far(a);
      REQUIRE(near(first.value(), right.value(), 1e-12 * 8));
      REQUIRE(near(first.affine.log_decay, right.affine.log_decay, 1e-12));
    }
  }
}

TEST_CASE("a run without tokens changes no state, from either side") {
  std::mt19937 random(2);
  const State some = random_token(random, 1.0);
  State nothing_before = some;
  nothing_before.join_far(State{});
  State nothing_after;
  nothing_after.join_far(some);
  for (const State& state : {nothing_before, nothing_after}) {
    REQUIRE(state.value() == some.value());
    REQUIRE(state.affine.log_decay == some.affine.log_decay);
  }
}

TEST_CASE("a million small steps stay within an fp32 rounding of the exact sum") {
  for (const double log_decay : {0.0, -1e-6, -1e-3}) {
    State state;
    double exact = 0.0;
    for (int t = 0; t < 1000000; ++t) {
      const double update = static_cast<double>(static_cast<float>(0.1 + 1e-3 * (t % 7)));
      State next = token(log_decay, update);
      next.join_far(state);
      state = next;
      exact = std::exp(log_decay) * exact + update;
    }
    REQUIRE(near(state.value() / exact, 1.0, 1e-9));
    REQUIRE(near(state.affine.log_decay, 1e6 * log_decay, 1e-6));
  }
}

TEST_CASE("a state that has wholly decayed leaves no NaN") {
  State state = token(-1e10, 3.0);
  state.join_far(token(0.0, 1e30));
  REQUIRE(state.value() == 3.0);
  state.join_far(token(-1e10, 1.0));
  REQUIRE(state.value() == 3.0);
}
