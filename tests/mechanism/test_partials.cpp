// The laws that let a row's keys be cut into runs anywhere.
#include "mechanism/partials.hpp"

#include <cmath>
#include <cstddef>
#include <random>
#include <vector>

#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

/// A partial result with its output (one number stands for the vector).
template <typename P>
struct Row {
  P partial = P::identity();
  float out = 0.0f;

  void join_far(const Row& far) {
    const JoinWeights weights = partial.join_far(far.partial);
    out = weights.far * far.out + weights.near * out;
  }
};

using LseRow = Row<LsePartial>;
using StickRow = Row<StickPartial>;

struct Key {
  double x;  ///< base-2 score
  double v;
};

std::vector<Key> random_keys(std::size_t count, double spread, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<Key> keys(count);
  for (Key& key : keys) key = {spread * normal(random), normal(random)};
  return keys;
}

LseRow lse_row(const Key& key) {
  return {{static_cast<float>(key.x), 1.0f}, static_cast<float>(key.v)};
}
/// beta = 2^x / (1 + 2^x); the stick that is left is 1 - beta = 1 / (1 + 2^x).
StickRow stick_row(const Key& key) {
  const double left = 1.0 / (1.0 + std::exp2(key.x));
  return {{static_cast<float>(std::log2(left))}, static_cast<float>((1.0 - left) * key.v)};
}

/// Joins the runs of a random tree over the keys [begin, end), ascending in the sequence.
template <typename MakeRow>
auto join_in_tree(const std::vector<Key>& keys, std::size_t begin, std::size_t end, std::mt19937& random,
                  MakeRow&& make_row) -> decltype(make_row(keys[0])) {
  if (end - begin == 1) return make_row(keys[begin]);
  const std::size_t cut = begin + 1 + random() % (end - begin - 1);
  auto near = join_in_tree(keys, cut, end, random, make_row);
  near.join_far(join_in_tree(keys, begin, cut, random, make_row));
  return near;
}

bool is_close(double got, double wanted, double tolerance) {
  return std::abs(got - wanted) <= tolerance;  // false for NaN
}

}  // namespace

TEST_CASE("Softmax partials joined in any tree give the row's softmax", "[partials]") {
  for (unsigned seed = 0; seed < 50; ++seed) {
    const std::vector<Key> keys = random_keys(1 + seed % 40, seed % 2 == 0 ? 2.0 : 60.0, seed);
    std::mt19937 random(seed);
    const LseRow row = join_in_tree(keys, 0, keys.size(), random, lse_row);
    double largest = -HUGE_VAL;
    for (const Key& key : keys) largest = std::fmax(largest, key.x);
    double sum = 0.0;
    double out = 0.0;
    for (const Key& key : keys) {
      sum += std::exp2(key.x - largest);
      out += std::exp2(key.x - largest) * key.v;
    }
    REQUIRE(is_close(row.partial.max, largest, 1e-5 * (1.0 + std::abs(largest))));
    REQUIRE(is_close(row.out / row.partial.sum, out / sum, 1e-4));
    REQUIRE(is_close(row.partial.max + std::log2(row.partial.sum), largest + std::log2(sum), 1e-4));
  }
}

TEST_CASE("Stick-breaking partials joined in any tree give the row's sticks", "[partials]") {
  for (unsigned seed = 0; seed < 50; ++seed) {
    const std::vector<Key> keys = random_keys(1 + seed % 40, 2.0, seed);
    std::mt19937 random(seed);
    const StickRow row = join_in_tree(keys, 0, keys.size(), random, stick_row);
    double stick = 1.0;
    double out = 0.0;
    for (std::size_t j = keys.size(); j-- > 0;) {  // near first
      const double left = 1.0 / (1.0 + std::exp2(keys[j].x));
      out += stick * (1.0 - left) * keys[j].v;
      stick *= left;
    }
    REQUIRE(is_close(row.out, out, 1e-5));
    REQUIRE(is_close(row.partial.log2_stick, std::log2(stick), 1e-5 * (1.0 + std::abs(std::log2(stick)))));
  }
}

TEST_CASE("The order of the joins matters for the stick, and not for softmax", "[partials]") {
  const Key a{1.0, 1.0};
  const Key b{-2.0, 3.0};
  LseRow lse = lse_row(a);
  lse.join_far(lse_row(b));
  LseRow lse_swapped = lse_row(b);
  lse_swapped.join_far(lse_row(a));
  REQUIRE(lse.out == lse_swapped.out);
  REQUIRE(lse.partial.sum == lse_swapped.partial.sum);
  REQUIRE(lse.partial.max == lse_swapped.partial.max);

  StickRow stick = stick_row(a);
  stick.join_far(stick_row(b));
  StickRow stick_swapped = stick_row(b);
  stick_swapped.join_far(stick_row(a));
  REQUIRE(stick.partial.log2_stick == stick_swapped.partial.log2_stick);
  REQUIRE(std::abs(stick.out - stick_swapped.out) > 0.1f);
}

TEST_CASE("Runs of no keys change nothing and make no NaN", "[partials]") {
  const LseRow seen{{3.5f, 2.25f}, -7.0f};
  LseRow near = seen;
  near.join_far(LseRow{});
  REQUIRE((near.partial.max == 3.5f && near.partial.sum == 2.25f && near.out == -7.0f));
  LseRow far;
  far.join_far(seen);
  REQUIRE((far.partial.max == 3.5f && far.partial.sum == 2.25f && far.out == -7.0f));
  LseRow neither;
  neither.join_far(LseRow{});
  REQUIRE((neither.partial.max == -HUGE_VALF && neither.partial.sum == 0.0f && neither.out == 0.0f));

  StickRow stick{{-4.0f}, 0.5f};
  stick.join_far(StickRow{});
  REQUIRE((stick.partial.log2_stick == -4.0f && stick.out == 0.5f));
  StickRow empty;
  empty.join_far({{-4.0f}, 0.5f});
  REQUIRE((empty.partial.log2_stick == -4.0f && empty.out == 0.5f));
}

TEST_CASE("Joins of scores far apart neither overflow nor make a NaN", "[partials]") {
  for (const float x : {-1e30f, -1000.0f, 1000.0f, 1e30f}) {
    LseRow row{{x, 1.0f}, 2.0f};
    row.join_far({{0.0f, 1.0f}, 4.0f});
    REQUIRE(row.partial.max == std::fmax(x, 0.0f));
    REQUIRE(row.partial.sum == 1.0f);
    REQUIRE(row.out == (x > 0.0f ? 2.0f : 4.0f));
  }
  StickRow used{{-1e30f}, 1.0f};  // nothing of the stick is left
  used.join_far({{-1.0f}, 100.0f});
  REQUIRE(used.out == 1.0f);
}
