// Exact top-k on Hopper against the float64 oracle: sizes, layouts, cuts, and scores that mislead a search.
#include <cmath>
#include <vector>

#include "tests/kernels_cuda/topk_problem.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using cuda::testing::as_it_is;
using cuda::testing::Fill;
using cuda::testing::TopkCase;
using cuda::testing::TopkRun;

namespace {

int expect_right(const TopkCase& problem) {
  INFO(describe(problem));
  TopkRun run(problem);
  const int rounds = run.search();
  run.attend();
  run.compare();
  return rounds;
}

constexpr ElementType kTypes[] = {ElementType::kBfloat16, ElementType::kFloat16};

/// Whole numbers: products are exact, so that ties are ties and the oracle's choice is the only one.
float whole(std::int64_t, std::int64_t dim, float normal) {
  return dim < 8 ? std::round(normal) : 0.0f;
}

/// Of 6,000 keys some 1,250 lie where every eighth says that the threshold is: more than a list has room for, if not
/// many more.
TopkCase crowded() {
  TopkCase c;
  c.name = "crowded beside the sample";
  c.q = [](auto, auto dim, auto) { return dim < 2 ? 1.0f : 0.0f; };
  c.k = [](std::int64_t token, std::int64_t dim, float x) {
    if (dim == 1) return x * 0x1p-9f;  // few ties
    if (dim > 1) return 0.0f;
    if (token % 8 == 0) return x;
    return token * 37 % 35 < 8 ? 1.3f + 0.4f * static_cast<float>(token * 73 % 1000) / 1000.0f : -1.0f;
  };
  return c;
}

/// Inputs that make a search difficult.
std::vector<TopkCase> difficult() {
  std::vector<TopkCase> cases{TopkCase{}, crowded()};
  const auto add = [&](const char* name, const Fill& q, const Fill& k) {
    TopkCase c;
    c.name = name;
    c.q = q;
    c.k = k;
    cases.push_back(c);
  };
  const Fill one = [](auto, auto dim, auto) { return dim == 0 ? 1.0f : 0.0f; };
  const auto first = [](auto f) -> Fill {
    return [f](std::int64_t token, std::int64_t dim, float normal) { return dim == 0 ? f(token, normal) : 0.0f; };
  };
  add("whole numbers", whole, whole);
  add("all equal", one, one);
  add(
      "all zero", [](auto, auto, auto) { return 0.0f; }, as_it_is);
  add(
      "some rows zero", [](auto token, auto, float x) { return token % 3 == 0 ? 0.0f : x; }, as_it_is);
  add("zeros of both signs", one, first([](auto token, float) { return token % 2 == 0 ? 0.0f : -0.0f; }));
  add("two values", one, first([](auto token, float) { return token % 7 < 2 ? 2.0f : -1.0f; }));
  add("three values, one rare", one, first([](auto token, float) {
        return token % 97 == 5 ? 3.0f : token % 2 == 0 ? 0.5f : 0.25f;
      }));
  add("rising", one, first([](auto token, float) { return static_cast<float>(token); }));
  add("falling", one, first([](auto token, float) { return -static_cast<float>(token); }));
  add("nearest larger", as_it_is, first([](auto token, float x) { return x + static_cast<float>(token) / 256.0f; }));
  add("every eighth larger", one, first([](auto token, float x) { return token % 8 == 0 ? x + 6.0f : x; }));
  add("every eighth smaller", one, first([](auto token, float x) { return token % 8 == 0 ? x - 6.0f : x; }));
  add("heavy tails", as_it_is,
      [](auto token, auto, float x) { return x * std::exp2(static_cast<float>(token * 37 % 11 - 5)); });
  add("tiny", one, first([](auto token, float) { return 1e-30f * static_cast<float>(token % 7); }));
  add("close together", one,
      first([](auto token, float) { return 1.0f + 0x1p-7f * static_cast<float>(token * 37 % 90); }));
  return cases;
}

}  // namespace

TEST_CASE("topk: sizes off every tile edge") {
  for (const ElementType type : kTypes) {
    for (const std::int64_t head_dim : {64, 128}) {
      for (const std::int64_t seq_len : {1, 2, 63, 64, 65, 127, 128, 129, 300, 1000}) {
        TopkCase c;
        c.type = type;
        c.head_dim = head_dim;
        c.seq_len = seq_len;
        c.seed = static_cast<std::uint32_t>(seq_len);
        expect_right(c);
      }
    }
  }
}

TEST_CASE("topk: every head_dim") {
  for (const ElementType type : kTypes) {
    for (const std::int64_t head_dim : {8, 32, 40, 96, 192, 256}) {
      TopkCase c;
      c.type = type;
      c.head_dim = head_dim;
      c.seq_len = 1100;
      c.heads = 1;
      c.row_step = 7;
      expect_right(c);
    }
  }
}

TEST_CASE("topk: grouped heads, batches and gaps") {
  for (const ElementType type : kTypes) {
    for (const std::int64_t head_dim : {64, 128}) {
      TopkCase c;
      c.type = type;
      c.head_dim = head_dim;
      c.batch = 2;
      c.heads = 6;
      c.kv_heads = 2;
      c.seq_len = 200;
      c.head_gap = 8;
      c.row_gap = 16;
      expect_right(c);
    }
  }
}

TEST_CASE("topk: keys over several launches, from any query run") {
  TopkCase c;
  c.seq_len = 1200;
  c.heads = 1;
  for (const TokenRun queries : {TokenRun{0, -1}, TokenRun{930, 1131}, TokenRun{1199, 1200}}) {
    for (const Fill& fill : {Fill(as_it_is), Fill(whole)}) {
      for (const bool adds : {false, true}) {
        c.queries = queries;
        c.adds = adds;
        c.q = c.k = fill;
        c.row_step = queries.size() > 300 ? 5 : 1;
        c.cuts = {900, 450, 449, 128, 0};
        expect_right(c);
      }
    }
  }
}

TEST_CASE("topk: scores that mislead a search") {
  for (TopkCase c : difficult()) {
    c.heads = 1;
    for (const std::int64_t seq_len : {300, 3000}) {
      for (const double exponent : {0.3, 0.7, 0.95}) {
        c.seq_len = seq_len;
        c.params.exponent = exponent;
        c.cuts = {seq_len * 2 / 3, 0};
        c.row_step = seq_len / 100;
        expect_right(c);
      }
    }
  }
}

TEST_CASE("topk: lists that overflow") {
  TopkCase c = crowded();
  c.seq_len = 6000;
  c.heads = 1;
  c.row_step = 149;
  for (const std::int64_t head_dim : {64, 128, 256}) {
    for (const std::vector<std::int64_t>& cuts : {std::vector<std::int64_t>{0}, {5003, 2051, 0}}) {
      c.head_dim = head_dim;
      c.cuts = cuts;
      expect_right(c);
    }
  }
}

TEST_CASE("topk: samples of few, other or no keys") {
  TopkCase c;
  c.seq_len = 2500;
  c.heads = 1;
  c.row_step = 23;
  for (const TokenRun sample : {TokenRun{0, 0}, TokenRun{2400, 2500}, TokenRun{0, 3}, TokenRun{1000, 2100}}) {
    c.sample = sample;
    expect_right(c);
  }
}

TEST_CASE("topk: as many keys are kept as wanted") {
  for (TopkCase c : difficult()) {
    for (const std::int64_t head_dim : {64, 128, 256}) {
      c.head_dim = head_dim;
      c.seq_len = 6000;
      c.scale = 0x1p-40f;
      c.adds = false;
      c.cuts = {4001, 0};
      INFO(describe(c));
      TopkRun run(c);
      run.search();
      run.attend();
      run.expect_as_many_as_wanted();
    }
  }
}

TEST_CASE("topk: random scores take one round, or two where few rows were guessed wrong") {
  TopkCase c;
  c.seq_len = 20000;
  c.head_dim = 128;
  c.row_step = 1999;
  CHECK(expect_right(c) <= 3);
}

TEST_CASE("topk: a score that is NaN is kept and seen, and the search ends") {
  TopkCase c;
  c.seq_len = 1500;
  c.k = [](auto token, auto, float x) { return token == 700 ? std::nanf("") : x; };
  c.most_rounds = 30;
  TopkRun run(c);
  run.search();
}
