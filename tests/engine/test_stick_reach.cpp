// What early exit leaves of a part, expected, against rows that are drawn.

#include <algorithm>
#include <cmath>
#include <random>

#include "engine/stick_reach.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

TEST_CASE("what early exit leaves, against rows whose reach is drawn") {
  constexpr int kTile = 64;
  constexpr int kTokens = 64 * 64;
  const ReachModel model(120.0, 700.0, kTile);
  CHECK(model.survival(120.0) == Approx(0.5));
  CHECK(model.survival(700.0) == Approx(0.01));
  std::mt19937 generator(7);
  std::uniform_real_distribution<double> uniform;
  double own = 0.0, before = 0.0, entered = 0.0, open = 0.0;
  constexpr int kDraws = 40;
  for (int draw = 0; draw < kDraws; ++draw) {
    for (int tile = 0; tile < kTokens / kTile; ++tile) {
      double farthest = 0.0;  // the end of the row that reaches farthest, in tokens behind the tile's end
      for (int row = 0; row < kTile; ++row) {
        const double u = uniform(generator);
        const double reach = u > 0.5 ? std::log(u) / std::log(0.5) * 120.0
                                     : 120.0 + std::log(2.0 * u) / (std::log(0.01) - std::log(0.5)) * 580.0;
        farthest = std::max(farthest, reach + kTile - 1 - row);
        if (reach > (tile * kTile + row)) open += 1.0;
      }
      const int tiles = std::max(1, static_cast<int>(std::ceil(farthest / kTile)));
      const int own_tiles = std::min(tiles, tile + 1);
      own += (own_tiles - 0.5) * kTile * kTile;
      const int far_tiles = std::clamp(tiles - (tile + 1), 0, kTokens / kTile);
      before += 1.0 * far_tiles * kTile * kTile;
      entered += far_tiles > 0 ? kTile : 0;
    }
  }
  CHECK(model.own(kTokens).pairs == Approx(own / kDraws).epsilon(0.05));
  CHECK(model.before(kTokens, 0, kTokens).pairs == Approx(before / kDraws).epsilon(0.10));
  CHECK(model.before(kTokens, 0, kTokens).rows == Approx(entered / kDraws).epsilon(0.10));
  CHECK(model.open_rows(kTokens, 0) == Approx(open / kDraws).epsilon(0.05));
  CHECK(model.before(kTokens, 100000, kTokens).pairs < 1.0);
}
