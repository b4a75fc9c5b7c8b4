// The oracle against cases worked out by hand.
#include <cmath>

#include "kernels/reference/oracle.hpp"
#include "tests/support/catch.hpp"

namespace ringscan {
namespace {

bool close(double a, double b) {
  return std::abs(a - b) <= 1e-14 * std::max(1.0, std::abs(b));
}

/// Three keys with scores q k = log 1, log 2, log 5 under scale 2 (q = 1/2), and values 10, 20, 40.
struct ThreeKeys {
  std::vector<double> k{0.0, std::log(2.0), std::log(5.0)};
  std::vector<double> v{10.0, 20.0, 40.0};
  std::vector<double> q{0.5};
  oracle::HeadKeys keys{k, v, 3, 1, 1};
};

StickBreakingParams stick(bool attend_current, RemainderPolicy remainder = RemainderPolicy::kDrop) {
  return {attend_current, remainder, 0x1p-24};
}

}  // namespace

TEST_CASE("Softmax by hand") {
  const ThreeKeys three;
  const oracle::Row causal = oracle::softmax_row({true, 0}, three.keys, three.q, 2, 2.0);
  REQUIRE(close(causal.o[0], (10.0 + 40.0 + 200.0) / 8.0));
  REQUIRE(close(causal.statistic, std::log(8.0)));
  const oracle::Row first = oracle::softmax_row({true, 0}, three.keys, three.q, 0, 2.0);
  REQUIRE(close(first.o[0], 10.0));
  const oracle::Row both_ways = oracle::softmax_row({false, 0}, three.keys, three.q, 0, 2.0);
  REQUIRE(close(both_ways.o[0], 250.0 / 8.0));
  const oracle::Row window = oracle::softmax_row({true, 2}, three.keys, three.q, 2, 2.0);
  REQUIRE(close(window.o[0], 240.0 / 7.0));
  const oracle::Row both_window = oracle::softmax_row({false, 2}, three.keys, three.q, 0, 2.0);
  REQUIRE(close(both_window.o[0], 50.0 / 3.0));
}

TEST_CASE("Stick-breaking by hand") {
  // beta = e^z / (1 + e^z) = 1/2, 2/3, 5/6.
  const ThreeKeys three;
  const oracle::Row strict = oracle::stick_breaking_row(stick(false), three.keys, three.q, 2, 2.0, {});
  REQUIRE(close(strict.o[0], 20.0 * 2 / 3 + 10.0 / 6));
  REQUIRE(close(strict.statistic, 1.0 / 6));
  const oracle::Row current = oracle::stick_breaking_row(stick(true), three.keys, three.q, 2, 2.0, {});
  REQUIRE(close(current.o[0], 40.0 * 5 / 6 + 20.0 / 9 + 10.0 / 36));
  REQUIRE(close(current.statistic, 1.0 / 36));
  const oracle::Row first = oracle::stick_breaking_row(stick(false), three.keys, three.q, 0, 2.0, {});
  REQUIRE(first.o[0] == 0.0);
  REQUIRE(first.statistic == 1.0);
}

TEST_CASE("What is left of the stick, by hand") {
  const ThreeKeys three;
  const double o = 20.0 * 2 / 3 + 10.0 / 6;
  const oracle::Row value =
      oracle::stick_breaking_row(stick(false, RemainderPolicy::kValue), three.keys, three.q, 2, 2.0, {});
  REQUIRE(close(value.o[0], o + 40.0 / 6));
  const std::vector<double> vector{-3.0};
  const oracle::Row added =
      oracle::stick_breaking_row(stick(false, RemainderPolicy::kVector), three.keys, three.q, 2, 2.0, vector);
  REQUIRE(close(added.o[0], o - 0.5));
}

TEST_CASE("Extreme scores by hand") {
  const std::vector<double> k{-2000.0, 2000.0, 1999.0};
  const std::vector<double> v{1.0, 2.0, 4.0};
  const std::vector<double> q{1.0};
  const oracle::HeadKeys keys{k, v, 3, 1, 1};
  const oracle::Row softmax = oracle::softmax_row({true, 0}, keys, q, 2, 1.0);
  REQUIRE(close(softmax.o[0], (2.0 + 4.0 * std::exp(-1.0)) / (1.0 + std::exp(-1.0))));
  REQUIRE(close(softmax.statistic, 2000.0 + std::log1p(std::exp(-1.0))));
  const oracle::Row broken = oracle::stick_breaking_row(stick(false), keys, q, 2, 1.0, {});
  REQUIRE(close(broken.o[0], 2.0));
  REQUIRE(broken.statistic == 0.0);
}

}  // namespace ringscan
