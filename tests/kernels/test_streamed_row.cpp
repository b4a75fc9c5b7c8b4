// Rows that meet their keys in runs equal the oracle's rows, however the keys are cut.

#include "kernels/reference/streamed_row.hpp"

#include <cmath>
#include <random>
#include <vector>

#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

struct Head {
  std::int64_t seq_len = 61;
  std::int64_t head_dim = 5;
  std::int64_t v_dim = 3;
  std::vector<double> q, k, v;

  explicit Head(double spread) {
    std::mt19937 generator(7);
    std::normal_distribution<double> normal(0.0, spread);
    const auto fill = [&](std::vector<double>& values, std::int64_t dim) {
      values.resize(static_cast<std::size_t>(seq_len * dim));
      for (double& x : values) x = normal(generator);
    };
    fill(q, head_dim);
    fill(k, head_dim);
    fill(v, v_dim);
  }
  static std::span<const double> part(const std::vector<double>& values, std::int64_t dim, const TokenRun& run) {
    return std::span(values).subspan(static_cast<std::size_t>(run.begin * dim),
                                     static_cast<std::size_t>(run.size() * dim));
  }
};

oracle::Row streamed(const Mechanism& mechanism, const Head& head, std::int64_t query, std::int64_t block,
                     std::span<const double> remainder_vector) {
  const TokenRun own{query, query + 1};
  oracle::StreamedRow row(mechanism, Head::part(head.q, head.head_dim, own), query, 0.3, head.v_dim);
  for (std::int64_t end = head.seq_len; end > 0; end -= block) {
    const TokenRun run{std::max<std::int64_t>(0, end - block), end};
    row.add(oracle::KeyBlock(run, Head::part(head.k, head.head_dim, run), Head::part(head.v, head.v_dim, run)));
  }
  return row.finish(Head::part(head.v, head.v_dim, own), remainder_vector);
}

bool close(double a, double b) {
  return a == b || std::abs(a - b) <= 1e-12 * std::max(1.0, std::abs(b));
}

}  // namespace

TEST_CASE("streamed rows equal the oracle's") {
  const std::vector<Mechanism> mechanisms = {
      SoftmaxParams{},
      SoftmaxParams{false, 0},
      SoftmaxParams{true, 9},
      SoftmaxParams{false, 4},
      StickBreakingParams{},
      StickBreakingParams{true, RemainderPolicy::kDrop, 0.0},
      StickBreakingParams{false, RemainderPolicy::kValue, 0x1p-24},
      StickBreakingParams{false, RemainderPolicy::kVector, 0x1p-24},
  };
  const std::vector<double> vector{0.5, -1.5, 2.0};
  for (const double spread : {0.5, 4.0}) {
    const Head head(spread);
    const oracle::HeadKeys keys{head.k, head.v, head.seq_len, head.head_dim, head.v_dim};
    for (const Mechanism& mechanism : mechanisms) {
      for (const std::int64_t block : {1, 7, 64}) {
        for (std::int64_t query = 0; query < head.seq_len; ++query) {
          const auto q = Head::part(head.q, head.head_dim, {query, query + 1});
          const oracle::Row wanted = oracle::row(mechanism, keys, q, query, 0.3, vector);
          const oracle::Row found = streamed(mechanism, head, query, block, vector);
          REQUIRE(close(found.statistic, wanted.statistic));
          for (std::size_t d = 0; d < wanted.o.size(); ++d) REQUIRE(close(found.o[d], wanted.o[d]));
        }
      }
    }
  }
}

TEST_CASE("a row wants the keys it sees, and none once its stick is used up") {
  const TokenRun all{0, 61};
  const Mechanism windowed = SoftmaxParams{true, 9};
  const std::vector<double> q{100.0};
  REQUIRE(oracle::StreamedRow(windowed, q, 20, 1.0, 1).wanted(all) == TokenRun{12, 21});
  REQUIRE(oracle::StreamedRow(windowed, q, 3, 1.0, 1).wanted(all) == TokenRun{0, 4});

  const Mechanism stick = StickBreakingParams{};
  oracle::StreamedRow row(stick, q, 20, 1.0, 1);
  REQUIRE(row.wanted(all) == TokenRun{0, 20});
  const std::vector<double> k(10, 1.0);
  const std::vector<double> v(10, 1.0);
  row.add(oracle::KeyBlock({10, 20}, k, v));  // ten scores of 100: e^-1000 is left
  REQUIRE(row.wanted(all).empty());
  const oracle::Row finished = row.finish({}, {});
  REQUIRE(finished.statistic == 0.0);
  REQUIRE(std::abs(finished.o[0] - 1.0) < 1e-12);
}
