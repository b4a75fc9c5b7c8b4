// Stick reach and kept mass of one rank against plain float64 loops, on every instruction set of this machine.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "hwy/targets.h"
#include "kernels/measure_kernels.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

constexpr std::int64_t kHeads = 2;
constexpr float kScale = 0.5f;

/// One batch item, two query heads on one KV head.
struct Problem {
  std::int64_t seq_len = 0;
  std::int64_t head_dim = 0;
  std::vector<float> q;
  std::vector<float> k;

  Problem(std::int64_t length, std::int64_t dim, float shift) : seq_len(length), head_dim(dim) {
    std::mt19937 generator(static_cast<std::uint32_t>(length));
    std::normal_distribution<float> normal;
    q.resize(static_cast<std::size_t>(length * kHeads * dim));
    k.resize(static_cast<std::size_t>(length * dim));
    for (std::size_t i = 0; i < q.size(); ++i) q[i] = normal(generator) + (i % dim == 0 ? shift : 0.0f);
    for (std::size_t i = 0; i < k.size(); ++i) k[i] = normal(generator) - (i % dim == 0 ? shift : 0.0f);
  }

  std::vector<double> scores(std::int64_t query, std::int64_t head) const {
    std::vector<double> z(static_cast<std::size_t>(query + 1));
    for (std::int64_t key = 0; key <= query; ++key) {
      for (std::int64_t d = 0; d < head_dim; ++d) {
        z[static_cast<std::size_t>(key)] += double{kScale} *
                                            q[static_cast<std::size_t>((query * kHeads + head) * head_dim + d)] *
                                            k[static_cast<std::size_t>(key * head_dim + d)];
      }
    }
    return z;
  }
};

/// Keys met, near first, until the stick is under epsilon.
std::int64_t exact_reach(const std::vector<double>& z, double epsilon) {
  double spent = 0.0;
  std::int64_t keys = 0;
  for (std::size_t key = z.size() - 1; key-- > 0 && std::exp(-spent) >= epsilon; ++keys) {
    spent += std::max(z[key], 0.0) + std::log1p(std::exp(-std::abs(z[key])));
  }
  return keys;
}

double log_sum(const std::vector<double>& z) {
  const double most = *std::max_element(z.begin(), z.end());
  double sum = 0.0;
  for (const double x : z) sum += std::exp(x - most);
  return most + std::log(sum);
}

double exact_kept(std::vector<double> z, std::int64_t keys, SparseSelect select) {
  const double lse = log_sum(z);
  if (select == SparseSelect::kTopk) std::sort(z.begin(), z.end());
  double kept = 0.0;
  for (std::size_t i = z.size() - static_cast<std::size_t>(keys); i < z.size(); ++i) kept += std::exp(z[i] - lse);
  return kept;
}

/// The task over a run of queries and a run of keys.
AttendTask make_task(const Problem& problem, const std::vector<HeadSlot>& slots, const Band& band, TokenRun queries,
                     TokenRun keys) {
  AttendTask task;
  const auto whole_q =
      dense_any_view(problem.q.data(), ElementType::kFloat32, {1, problem.seq_len, kHeads, problem.head_dim});
  const auto whole_k =
      dense_any_view(problem.k.data(), ElementType::kFloat32, {1, problem.seq_len, 1, problem.head_dim});
  task.q = whole_q.tokens(queries.begin, queries.size());
  task.k = whole_k.tokens(keys.begin, keys.size());
  task.v = task.k;
  task.v.shape[3] = 1;
  task.slots = slots;
  task.query_run = queries;
  task.key_run = keys;
  task.band = band;
  task.scale = kScale;
  task.key_block = 128;
  return task;
}

const std::vector<HeadSlot> kSlots{{0, 0}, {1, 0}};

/// Keys of [0, seq_len) in two pieces, near first.
template <typename Meet>
void meet_in_pieces(const Problem& problem, const Band& band, TokenRun queries, Meet&& meet) {
  const std::int64_t cut = queries.end / 3;
  Heartbeat heartbeat;
  for (const TokenRun keys : {TokenRun{cut, queries.end}, TokenRun{0, cut}}) {
    meet(make_task(problem, kSlots, band, queries, keys), heartbeat);
  }
}

void check_reach(const Problem& problem, TokenRun queries) {
  const auto kernels = make_cpu_measure_kernels();
  const ReachParams params{{1e-3, 1e-6, 0.25}};
  ReachBlock block;
  kernels->make(block, {1, queries.size(), 2, 1}, params, nullptr);
  meet_in_pieces(problem, band_of(params), queries, [&](const AttendTask& task, Heartbeat& heartbeat) {
    kernels->attend(task, params, block, heartbeat);
  });
  for (std::int64_t slot = 0; slot < kHeads; ++slot) {
    for (std::size_t e = 0; e < params.epsilons.size(); ++e) {
      std::vector<std::int64_t> keys;
      const std::int64_t never = kernels->read(block, slot, params, e, keys);
      REQUIRE(keys.size() == static_cast<std::size_t>(queries.size()));
      std::int64_t wanted_never_low = 0, wanted_never_high = 0;
      for (std::int64_t query = queries.begin; query < queries.end; ++query) {
        const auto z = problem.scores(query, slot);
        const std::int64_t low = exact_reach(z, params.epsilons[e] * (1.0 + 1e-5));
        const std::int64_t high = exact_reach(z, params.epsilons[e] * (1.0 - 1e-5));
        const std::int64_t found = keys[static_cast<std::size_t>(query - queries.begin)];
        INFO("query " << query << " slot " << slot << " epsilon " << params.epsilons[e]);
        REQUIRE(low <= found);
        REQUIRE(found <= high);
        const auto left = [&](double epsilon) {
          double spent = 0.0;
          for (std::int64_t key = 0; key < query; ++key) {
            const double x = z[static_cast<std::size_t>(key)];
            spent += std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
          }
          return std::exp(-spent) >= epsilon ? 1 : 0;
        };
        wanted_never_low += left(params.epsilons[e] * (1.0 + 1e-5));
        wanted_never_high += left(params.epsilons[e] * (1.0 - 1e-5));
      }
      REQUIRE(wanted_never_low <= never);
      REQUIRE(never <= wanted_never_high);
    }
  }
}

void check_mass(const Problem& problem, TokenRun queries, SparseSelect select) {
  const auto kernels = make_cpu_measure_kernels();
  const MassParams params{select, {0.1, 0.4, 0.55, 0.8, 1.0}};
  std::vector<float> lse;
  for (std::int64_t query = queries.begin; query < queries.end; ++query) {
    for (int head = 0; head < kHeads; ++head) lse.push_back(static_cast<float>(log_sum(problem.scores(query, head))));
  }
  MassBlock block;
  kernels->make(block, {1, queries.size(), 2, 1}, params, nullptr);
  block.lse = dense_view(static_cast<const float*>(lse.data()), {1, queries.size(), kHeads, 1});
  meet_in_pieces(problem, band_of(params), queries, [&](const AttendTask& task, Heartbeat& heartbeat) {
    kernels->attend(task, params, block, heartbeat);
  });
  const std::size_t count = params.exponents.size();
  KeptMass sums{std::vector<double>(2 * count), std::vector<double>(2 * count)};
  kernels->add_kept(block, queries, params, sums);
  for (std::size_t i = 0; i < 2 * count; ++i) {
    double wanted = 0.0;
    for (std::int64_t query = queries.begin; query < queries.end; ++query) {
      wanted += exact_kept(problem.scores(query, static_cast<std::int64_t>(i / count)),
                           keys_kept(query + 1, params.exponents[i % count]), select);
    }
    const auto rows = static_cast<double>(queries.size());
    INFO("slot " << i / count << " exponent " << params.exponents[i % count] << " wanted " << wanted / rows << " found "
                 << sums.low[i] / rows << " to " << sums.high[i] / rows);
    REQUIRE(sums.low[i] <= wanted + 2e-5 * rows);
    REQUIRE(wanted <= sums.high[i] + 2e-5 * rows);
    REQUIRE(sums.high[i] - sums.low[i] <= (select == SparseSelect::kTopk ? 0.01 : 0.0) * rows);
  }
}

/// Calls check() with each instruction set of this machine in turn.
template <typename Check>
void on_each_target(Check&& check) {
  const auto choose = [](std::int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  };
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    choose(target);
    check();
    choose(0);
  }
}

}  // namespace

TEST_CASE("Keys kept") {
  REQUIRE(keys_kept(1, 0.4) == 1);
  REQUIRE(keys_kept(100, 0.5) == 10);
  REQUIRE(keys_kept(101, 0.5) == 11);
  REQUIRE(keys_kept(1000, 1.0 / 3.0) == 10);
  REQUIRE(keys_kept(12345, 1.0) == 12345);
}

TEST_CASE("Stick reach equals the plain loop") {
  on_each_target([] {
    for (const float shift : {0.0f, 1.5f}) {
      check_reach(Problem(333, 20, shift), {0, 333});
      check_reach(Problem(500, 8, shift), {290, 431});
      check_reach(Problem(1, 4, shift), {0, 1});
    }
  });
}

TEST_CASE("A long stick of tiny shares is counted through") {
  Problem problem(20'000, 1, 0.0f);
  std::fill(problem.q.begin(), problem.q.end(), 2.0f);
  std::fill(problem.k.begin(), problem.k.end(), -7.0f);
  check_reach(problem, {19'998, 20'000});
}

TEST_CASE("Kept mass holds the plain loop's between its bounds") {
  on_each_target([] {
    for (const SparseSelect select : {SparseSelect::kTopk, SparseSelect::kWindow}) {
      check_mass(Problem(333, 20, 0.0f), {0, 333}, select);
      check_mass(Problem(500, 8, 0.0f), {290, 431}, select);
      check_mass(Problem(1, 4, 0.0f), {0, 1}, select);
    }
  });
}

TEST_CASE("Equal scores are kept in proportion") {
  Problem problem(300, 4, 0.0f);
  std::fill(problem.k.begin(), problem.k.end(), 0.25f);
  for (const SparseSelect select : {SparseSelect::kTopk, SparseSelect::kWindow}) {
    const auto kernels = make_cpu_measure_kernels();
    const MassParams params{select, {0.5}};
    std::vector<float> lse;
    for (int head = 0; head < kHeads; ++head) lse.push_back(static_cast<float>(log_sum(problem.scores(299, head))));
    MassBlock block;
    kernels->make(block, {1, 1, 2, 1}, params, nullptr);
    block.lse = dense_view(static_cast<const float*>(lse.data()), {1, 1, kHeads, 1});
    meet_in_pieces(problem, band_of(params), {299, 300}, [&](const AttendTask& task, Heartbeat& heartbeat) {
      kernels->attend(task, params, block, heartbeat);
    });
    KeptMass sums{std::vector<double>(2), std::vector<double>(2)};
    kernels->add_kept(block, {299, 300}, params, sums);
    for (std::size_t i = 0; i < 2; ++i) REQUIRE(std::abs(sums.low[i] - 18.0 / 300.0) < 1e-5);
  }
}
