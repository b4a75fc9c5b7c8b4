// n^C-sparse attention: which keys are kept, windows that differ by row, and exact top-k.
#include <numeric>

#include "kernels/reference/oracle.hpp"
#include "mechanism/growing_window.hpp"
#include "tests/kernels/attention_case.hpp"
#include "tests/kernels/kernels_under_test.hpp"
#include "tests/support/catch.hpp"

namespace ringscan::test {
namespace {

constexpr SparseSelect kBoth[] = {SparseSelect::kWindow, SparseSelect::kTopk};

SparseParams sparse(SparseSelect select, double exponent, double alpha = 1.0) {
  return {select, alpha, exponent, 1, SparseCount::kVisible};
}

void require_right(const AttentionCase& problem) {
  const auto kernels = make_kernels_under_test();
  INFO(describe(problem));
  REQUIRE(error_of(*kernels, problem) <= 1.0);
}

/// Keys whose element is one of `distinct` values, by token.
AttentionCase with_ties(std::int64_t seq_len, std::int64_t distinct) {
  AttentionCase problem;
  problem.seq_len = seq_len;
  problem.head_dim = 1;
  problem.scale = 1.0f;
  problem.q = [](std::int64_t token, std::int64_t) { return token % 2 == 0 ? 0.75f : -0.5f; };
  problem.k = [distinct](std::int64_t token, std::int64_t) {
    return static_cast<float>(token * token % distinct - distinct / 2);
  };
  return problem;
}

}  // namespace

TEST_CASE("Numbers of kept keys are whole numbers without rounding's doing") {
  for (const std::int64_t root : {1, 2, 3, 10, 1000, 65536, 1'000'003}) {
    REQUIRE(GrowingWindow(sparse(SparseSelect::kTopk, 0.5), 0).keys_kept(root * root - 1) == root);
    REQUIRE(GrowingWindow(sparse(SparseSelect::kTopk, 0.5), 0).keys_kept(root * root) == root + 1);
  }
  REQUIRE(GrowingWindow(sparse(SparseSelect::kTopk, 1.0, 0.1), 0).keys_kept(29) == 3);
  REQUIRE(GrowingWindow(sparse(SparseSelect::kTopk, 1.0), 0).keys_kept(12345) == 12346);
  REQUIRE(GrowingWindow({SparseSelect::kTopk, 1.0, 0.5, 9, SparseCount::kVisible}, 0).keys_kept(24) == 9);
  REQUIRE(GrowingWindow({SparseSelect::kTopk, 1.0, 0.5, 9, SparseCount::kVisible}, 0).keys_kept(4) == 5);
  REQUIRE(GrowingWindow({SparseSelect::kTopk, 1.0, 0.5, 1, SparseCount::kTotal}, 400).keys_kept(100) == 20);
}

TEST_CASE("The window's far edge never moves back, and the oracle keeps as many keys") {
  for (const double exponent : {0.01, 0.3, 0.5, 0.7, 0.99, 1.0}) {
    for (const double alpha : {0.2, 1.0, 3.7}) {
      for (const std::int64_t min_keys : {1, 50}) {
        const SparseParams params{SparseSelect::kWindow, alpha, exponent, min_keys, SparseCount::kVisible};
        const GrowingWindow window(params, 5000);
        std::int64_t first = 0;
        for (std::int64_t query = 0; query < 5000; ++query) {
          if (query - window.reach(query) < first) FAIL("moved back at " << query);
          first = query - window.reach(query);
          if (window.keys_kept(query) != oracle::sparse_keys_kept(params, query, 5000)) FAIL("differs at " << query);
        }
        REQUIRE(window.count_kept({0, 3}) == window.keys_kept(0) + window.keys_kept(1) + window.keys_kept(2));
        for (const TokenRun& run : {TokenRun{0, 5000}, TokenRun{17, 18}, TokenRun{40, 40}, TokenRun{1, 4321}}) {
          const std::vector<std::int64_t> kept = window.keys_kept(run);
          REQUIRE(std::ssize(kept) == run.size());
          for (std::int64_t query = run.begin; query < run.end; ++query) {
            if (kept[static_cast<std::size_t>(query - run.begin)] != window.keys_kept(query)) FAIL("not at " << query);
          }
          REQUIRE(window.count_kept(run) == std::accumulate(kept.begin(), kept.end(), std::int64_t{0}));
        }
      }
    }
  }
}

TEST_CASE("Sparse attention is right at any length, head size and element type") {
  AttentionCase problem;
  for (const SparseSelect select : kBoth) {
    problem.mechanism = sparse(select, 0.7);
    for (const std::int64_t seq_len : {1, 2, 63, 64, 65, 129, 513}) {
      problem.seq_len = seq_len;
      require_right(problem);
    }
    problem.seq_len = 200;
    for (const std::int64_t head_dim : {1, 40, 256}) {
      problem.head_dim = head_dim;
      problem.v_dim = head_dim / 2 + 1;
      require_right(problem);
    }
    problem.head_dim = problem.v_dim = 32;
    for (const ElementType type : {ElementType::kFloat16, ElementType::kBfloat16}) {
      problem.type = problem.output_type = type;
      require_right(problem);
    }
    problem.type = problem.output_type = ElementType::kFloat32;
  }
}

TEST_CASE("Sparse attention is right with grouped heads, batches, and every exponent") {
  AttentionCase problem;
  problem.seq_len = 300;
  problem.batch = 2;
  problem.num_heads = 4;
  problem.num_kv_heads = 2;
  problem.row_padding = 3;
  for (const SparseSelect select : kBoth) {
    for (const double exponent : {0.1, 0.5, 0.9, 1.0}) {
      problem.mechanism = sparse(select, exponent);
      require_right(problem);
    }
  }
}

TEST_CASE("Runs of queries and keys give the bits of one run, and pairs are counted exactly") {
  const auto kernels = make_kernels_under_test();
  AttentionCase problem;
  problem.seq_len = 700;
  problem.num_heads = 2;
  for (const SparseSelect select : kBoth) {
    const SparseParams params = sparse(select, 0.7);
    problem.mechanism = params;
    problem.steps = {};
    problem.queries = {0, 700};
    const Activations activations(problem);
    const Result whole = run_case(*kernels, problem, activations);
    const std::int64_t scores =
        select == SparseSelect::kWindow ? GrowingWindow(params, 700).count_kept({0, 700}) : 700 * 701 / 2;
    REQUIRE(whole.stats.pairs == 2 * scores);
    const Band band = band_of(params);
    problem.steps = {{{640, 700}, band}, {{256, 640}, band}, {{0, 256}, band}};
    problem.queries = {384, 700};
    const Result part = run_case(*kernels, problem, activations);
    const std::size_t row = 2 * static_cast<std::size_t>(problem.v_dim);
    REQUIRE(std::equal(part.o.begin(), part.o.end(), whole.o.begin() + 384 * static_cast<std::ptrdiff_t>(row)));
    REQUIRE(std::equal(part.kept_mass.begin(), part.kept_mass.end(), whole.kept_mass.begin() + 384 * 2));
    problem.queries = {37, 401};
    problem.steps = {{{399, 700}, band}, {{398, 399}, band}, {{111, 398}, band}, {{111, 111}, band}, {{0, 111}, band}};
    REQUIRE(error_of(*kernels, problem) <= 1.0);
  }
}

TEST_CASE("Ties at the threshold go to the nearer key") {
  for (const std::int64_t distinct : {1, 2, 5, 40}) {
    AttentionCase problem = with_ties(500, distinct);
    for (const double exponent : {0.2, 0.7, 0.95}) {
      problem.mechanism = sparse(SparseSelect::kTopk, exponent);
      require_right(problem);
    }
  }
}

TEST_CASE("Top-k looks everywhere: zeros of both signs, tiny, huge and clustered scores") {
  AttentionCase problem;
  problem.seq_len = 400;
  problem.head_dim = 1;
  problem.scale = 1.0f;
  problem.mechanism = sparse(SparseSelect::kTopk, 0.6);
  problem.q = [](std::int64_t token, std::int64_t) { return token % 3 == 0 ? -1.0f : 1.0f; };
  problem.k = [](std::int64_t token, std::int64_t) { return token % 2 == 0 ? 0.0f : -0.0f; };
  require_right(problem);
  problem.k = [](std::int64_t token, std::int64_t) { return 1e-30f * static_cast<float>(token % 7); };
  require_right(problem);
  problem.k = [](std::int64_t token, std::int64_t) { return 1.0f + 0x1p-20f * static_cast<float>(token * 37 % 400); };
  require_right(problem);
  problem.k = [](std::int64_t token, std::int64_t) { return token < 300 ? -20.0f : static_cast<float>(token % 50); };
  require_right(problem);
}

TEST_CASE("A search takes few rounds") {
  const auto kernels = make_kernels_under_test();
  AttentionCase problem;
  problem.seq_len = 3000;
  problem.mechanism = sparse(SparseSelect::kTopk, 0.7);
  REQUIRE(run_case(*kernels, problem).search_rounds <= 5);
}

TEST_CASE("Rows that keep all their keys have all the mass") {
  const auto kernels = make_kernels_under_test();
  AttentionCase problem;
  problem.seq_len = 200;
  for (const SparseSelect select : kBoth) {
    problem.mechanism = sparse(select, 1.0);
    for (const float mass : run_case(*kernels, problem).kept_mass) REQUIRE(mass == 1.0f);
  }
}

}  // namespace ringscan::test
