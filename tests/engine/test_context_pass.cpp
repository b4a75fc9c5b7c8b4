// Keys that come before the sequence: a pass over its tail with the rest as context equals the oracle over the whole;
// compiled once with ranks as threads and once under mpirun.

#include <string>
#include <vector>

#include "comm/local_transport.hpp"
#include "mechanism/growing_window.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/context_problem.hpp"

using namespace ringscan;
using namespace ringscan::testing;
using ringscan::test::expect;
using ringscan::test::for_each_world;

namespace {

constexpr std::int64_t kKeyBlock = 64;

AttentionProblem make_problem(std::int64_t seq_len, std::int64_t batch, ElementType type = ElementType::kFloat32) {
  AttentionProblem problem;
  problem.batch = batch;
  problem.seq_len = seq_len;
  problem.num_heads = 4;
  problem.num_kv_heads = 2;
  problem.head_dim = 12;
  problem.v_dim = 8;
  problem.type = type;
  problem.seed = static_cast<std::uint32_t>(seq_len);
  problem.fill();
  return problem;
}

SparseParams sparse(SparseSelect select, double exponent, double alpha = 1.0,
                    SparseCount count = SparseCount::kVisible) {
  return SparseParams{select, alpha, exponent, 1, count};
}

std::vector<Mechanism> all_mechanisms() {
  return {SoftmaxParams{true, 0},
          SoftmaxParams{true, 1},
          SoftmaxParams{true, 40},
          SoftmaxParams{true, 150},
          CogParams{},
          StickBreakingParams{false, RemainderPolicy::kDrop, 0.0},
          StickBreakingParams{true, RemainderPolicy::kValue, 0x1p-24},
          StickBreakingParams{},
          sparse(SparseSelect::kWindow, 0.7),
          sparse(SparseSelect::kWindow, 0.5, 2.0, SparseCount::kTotal),
          sparse(SparseSelect::kTopk, 0.7),
          sparse(SparseSelect::kTopk, 1.0),
          sparse(SparseSelect::kTopk, 0.5, 2.0, SparseCount::kTotal)};
}

AttentionResult tail_of(const AttentionResult& whole, const AttentionProblem& problem, std::int64_t first) {
  const TokenRun run{first, problem.seq_len};
  AttentionResult tail;
  tail.o = token_rows(whole.o, problem.batch, problem.seq_len, run);
  tail.statistic = token_rows(whole.statistic, problem.batch, problem.seq_len, run);
  if (!whole.kept_mass.empty()) tail.kept_mass = token_rows(whole.kept_mass, problem.batch, problem.seq_len, run);
  tail.slack = whole.slack;
  return tail;
}

/// The tail's rows equal the oracle's over all worlds and both layouts.
void check_cut(const AttentionProblem& problem, const Mechanism& mechanism, std::int64_t cut) {
  const AttentionResult exact = tail_of(exact_result(problem, mechanism), problem, cut);
  const AttentionProblem tail = cut_out(problem, {cut, problem.seq_len});
  const auto* stick = std::get_if<StickBreakingParams>(&mechanism);
  const double largest = max_abs(problem.v);
  const double tolerance = (1e-5 + (stick != nullptr ? stick->epsilon : 0.0)) * std::max(1.0, largest);
  for_each_world([&](Transport& transport) {
    const auto kernels = make_cpu_kernels();
    for (const LayoutKind kind : {LayoutKind::kContiguous, LayoutKind::kZigzag}) {
      const SequenceLayout layout(kind, tail.seq_len, transport.world_size(), 1);
      MemoryContext context(problem, cut, kKeyBlock);
      const RankRun run = run_over_ranks(tail, mechanism, layout, kKeyBlock, transport, *kernels, true, &context);
      expect(transport, max_abs_difference(run.whole.o, exact.o) <= tolerance + exact.slack * largest);
      expect(transport, max_abs_difference(run.whole.kept_mass, exact.kept_mass) <= 1e-5);
      expect(transport, max_abs_difference(run.whole.statistic, exact.statistic) <= 2.0 * tolerance);
    }
  });
}

}  // namespace

TEST_CASE("the tail of a sequence behind its context equals the oracle over the whole") {
  for (const std::int64_t cut : {1, 64, 131, 258}) {
    const AttentionProblem problem = make_problem(261, 1);
    for (const Mechanism& mechanism : all_mechanisms()) check_cut(problem, mechanism, cut);
  }
  SUCCEED();
}

TEST_CASE("a context of several batch items, in 16 bits") {
  const AttentionProblem problem = make_problem(170, 2, ElementType::kBfloat16);
  for (const Mechanism& mechanism : all_mechanisms()) check_cut(problem, mechanism, 101);
  SUCCEED();
}

TEST_CASE("long sticks go on into the context, short ones end its walk on all ranks") {
  AttentionProblem problem = make_problem(900, 1);
  const StickBreakingParams mechanism;
  for_each_world([&](Transport& transport) {
    const auto kernels = make_cpu_kernels();
    const AttentionProblem tail = cut_out(problem, {700, problem.seq_len});
    const SequenceLayout layout(LayoutKind::kContiguous, tail.seq_len, transport.world_size(), 1);
    MemoryContext context(problem, 700, kKeyBlock);
    run_over_ranks(tail, mechanism, layout, kKeyBlock, transport, *kernels, true, &context);
    expect(transport, context.blocks >= 1 && context.blocks <= 4);  // of 11
  });
  problem.q_offset = 6.0;  // scores about -10
  problem.fill();
  check_cut(problem, mechanism, 700);
  SUCCEED();
}

TEST_CASE("a window ends the walk where it ends") {
  const AttentionProblem problem = make_problem(500, 1);
  const AttentionProblem tail = cut_out(problem, {400, problem.seq_len});
  SparseParams window;
  window.select = SparseSelect::kWindow;
  window.exponent = 0.5;  // 21 keys and a few more
  for_each_world([&](Transport& transport) {
    const auto kernels = make_cpu_kernels();
    const SequenceLayout layout(LayoutKind::kContiguous, tail.seq_len, transport.world_size(), 1);
    const auto blocks_met = [&](const Mechanism& mechanism) {
      MemoryContext context(problem, 400, kKeyBlock);
      run_over_ranks(tail, mechanism, layout, kKeyBlock, transport, *kernels, false, &context);
      return context.blocks;
    };
    expect(transport, blocks_met(SoftmaxParams{true, 1}) == 0);
    expect(transport, blocks_met(SoftmaxParams{true, 65}) == 1);
    expect(transport, blocks_met(SoftmaxParams{true, 66}) == 2);
    expect(transport, blocks_met(window) == 1);
    expect(transport, blocks_met(SoftmaxParams{}) == 7);
  });
  SUCCEED();
}

TEST_CASE("with a context, too, a layout on the grid gives the same bits for any number of ranks") {
  const AttentionProblem problem = make_problem(700, 1);
  const AttentionProblem tail = cut_out(problem, {101, problem.seq_len});
  for (const Mechanism& mechanism : all_mechanisms()) {
    const auto run_with = [&](Transport& transport, std::int64_t block_tokens) {
      const auto kernels = make_cpu_kernels();
      const SequenceLayout layout(LayoutKind::kContiguous, tail.seq_len, transport.world_size(), kKeyBlock);
      MemoryContext context(problem, 101, block_tokens);
      return run_over_ranks(tail, mechanism, layout, kKeyBlock, transport, *kernels, true, &context).whole;
    };
    AttentionResult one_rank;
    run_ranks(1, [&](Transport& transport) { one_rank = run_with(transport, 2 * kKeyBlock); });
    for_each_world([&](Transport& transport) {
      const AttentionResult whole = run_with(transport, kKeyBlock);
      expect(transport, whole.o == one_rank.o);
      expect(transport, whole.statistic == one_rank.statistic);
      expect(transport, whole.kept_mass == one_rank.kept_mass);
    });
  }
  SUCCEED();
}

TEST_CASE("kept keys and the error bound count the context") {
  AttentionProblem problem = make_problem(203, 1);
  problem.v[0] = 100.0f;  // the farthest key's
  const AttentionProblem tail = cut_out(problem, {99, problem.seq_len});
  for (const SparseSelect select : {SparseSelect::kWindow, SparseSelect::kTopk}) {
    const SparseParams mechanism = sparse(select, 0.5);
    for_each_world([&](Transport& transport) {
      const auto kernels = make_cpu_kernels();
      const SequenceLayout layout(LayoutKind::kContiguous, tail.seq_len, transport.world_size(), 1);
      MemoryContext context(problem, 99, kKeyBlock);
      const RankRun run = run_over_ranks(tail, mechanism, layout, kKeyBlock, transport, *kernels, true, &context);
      const TokenRun own = layout.chunks(transport.rank())[0].run;
      const GrowingWindow window(mechanism, problem.seq_len);
      if (select == SparseSelect::kWindow) {
        expect(transport, run.pass.stats.pairs == 4 * window.count_kept({own.begin + 99, own.end + 99}));
      }
      if (!own.empty()) expect(transport, run.pass.kept_mass.error_bound > 20.0);
    });
  }
  SUCCEED();
}
