// Costs fitted to measured points, and corrected by them.

#include <vector>

#include "engine/cost_profile.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

TEST_CASE("a kernel's costs are found again from its points, and none is under 0") {
  KernelCost cost;
  std::vector<KernelPoint> points;
  for (const double rows : {1e3, 4e3, 3e4}) {
    for (const double keys : {1e3, 1e4}) points.push_back({keys / 1e3, rows, rows * keys, 0.0});
  }
  for (KernelPoint& point : points) point.seconds = point.calls * 1e-5 + point.rows * 2e-8 + point.pairs * 3e-10;
  fit_kernel_cost(points, cost);
  CHECK(cost.call_seconds == Approx(1e-5).epsilon(1e-6));
  CHECK(cost.row_seconds == Approx(2e-8).epsilon(1e-6));
  CHECK(cost.pair_seconds == Approx(3e-10).epsilon(1e-6));
  CHECK(cost.worst_fit < 1e-6);
  for (KernelPoint& point : points) point.seconds = point.pairs * 3e-10 - point.rows * 1e-9;
  fit_kernel_cost(points, cost);
  CHECK(cost.row_seconds == 0.0);
  CHECK(cost.pair_seconds > 0.0);
  CHECK(cost.worst_fit > 1e-4);
}

TEST_CASE("a cost is corrected by what calls of its size took") {
  KernelCost cost;
  cost.corrections = {{1e-4, 2.0}, {1e-2, 1.0}};
  CHECK(cost.corrected(1e-6, 1.0) == Approx(2e-6));
  CHECK(cost.corrected(1e-3, 1.0) == Approx(1.5e-3));
  CHECK(cost.corrected(4.0, 4.0) == Approx(4.0));
  CHECK(cost.corrected(4e-3, 4.0) == Approx(6e-3));
  CHECK(cost.corrected(1e-3, 1.0, true) == 1e-3);
}
