#include "mechanism/band.hpp"

#include <string>
#include <vector>

#include "mechanism/mechanism.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

constexpr std::int64_t kUnbounded = Band::kUnbounded;

std::int64_t count_one_by_one(const Band& band, const TokenRun& queries, const TokenRun& keys) {
  std::int64_t pairs = 0;
  for (std::int64_t i = queries.begin; i < queries.end; ++i) {
    for (std::int64_t j = keys.begin; j < keys.end; ++j) pairs += band.sees(i, j) ? 1 : 0;
  }
  return pairs;
}

std::vector<TokenRun> runs() {
  std::vector<TokenRun> all;
  for (const std::int64_t begin : {0, 1, 4, 9, 15}) {
    for (const std::int64_t size : {0, 1, 2, 5, 8}) all.push_back({begin, begin + size});
  }
  return all;
}

std::vector<Band> bands() {
  std::vector<Band> all;
  const std::vector<std::int64_t> ends = {-kUnbounded, -17, -5, -1, 0, 1, 3, 8, 20, kUnbounded};
  for (const std::int64_t min_delta : ends) {
    for (const std::int64_t max_delta : ends) all.push_back({min_delta, max_delta});  // empty bands too
  }
  return all;
}

}  // namespace

TEST_CASE("Pairs of a band are counted exactly", "[band]") {
  int wrong = 0;
  for (const Band& band : bands()) {
    for (const TokenRun& queries : runs()) {
      for (const TokenRun& keys : runs()) {
        const std::int64_t pairs = count_one_by_one(band, queries, keys);
        wrong += count_pairs(band, queries, keys) == pairs ? 0 : 1;
        wrong += any_pair(band, queries, keys) == (pairs > 0) ? 0 : 1;
        if (queries.empty() || keys.empty()) continue;
        wrong += all_pairs(band, queries, keys) == (pairs == queries.size() * keys.size()) ? 0 : 1;
      }
    }
  }
  REQUIRE(wrong == 0);
}

TEST_CASE("Bands intersect pair by pair", "[band]") {
  int wrong = 0;
  for (const Band& a : bands()) {
    for (const Band& b : bands()) {
      for (std::int64_t query = 0; query < 24; ++query) {
        wrong += intersect(a, b).sees(query, 10) == (a.sees(query, 10) && b.sees(query, 10)) ? 0 : 1;
      }
    }
  }
  REQUIRE(wrong == 0);
}

TEST_CASE("Pairs of a million tokens and more do not overflow", "[band]") {
  const std::int64_t seq_len = std::int64_t{1} << 31;
  const TokenRun all{0, seq_len};
  REQUIRE(count_pairs({0, kUnbounded}, all, all) == seq_len / 2 * (seq_len + 1));
  REQUIRE(count_pairs({1, kUnbounded}, all, all) == seq_len / 2 * (seq_len - 1));
  REQUIRE(count_pairs({-kUnbounded, kUnbounded}, all, all) == seq_len * seq_len);
  REQUIRE(count_pairs({0, 0}, all, all) == seq_len);
  REQUIRE(count_pairs({0, 1023}, all, all) == 1024 * seq_len - 1024 * 1023 / 2);
}

TEST_CASE("Each mechanism has its band", "[band]") {
  REQUIRE(band_of(SoftmaxParams{}) == Band{0, kUnbounded});
  REQUIRE(band_of(SoftmaxParams{false, 0}) == Band{-kUnbounded, kUnbounded});
  REQUIRE(band_of(SoftmaxParams{true, 8}) == Band{0, 7});
  REQUIRE(band_of(SoftmaxParams{false, 8}) == Band{-7, 7});
  StickBreakingParams stick;
  REQUIRE(band_of(stick) == Band{1, kUnbounded});
  stick.attend_current = true;
  REQUIRE(band_of(Mechanism{stick}) == Band{0, kUnbounded});
  REQUIRE(is_ordered(stick));
  REQUIRE(!is_ordered(SoftmaxParams{}));
  REQUIRE(name_of(Mechanism{stick}) == "stick-breaking");
  REQUIRE(name_of(Mechanism{SoftmaxParams{}}) == "softmax");
}
