// One head group round the ring, against the oracle: every mechanism, layout, odd length and number of ranks; compiled
// once with ranks as threads and once under mpirun.

#include <cmath>
#include <string>
#include <vector>

#include "comm/local_transport.hpp"
#include "mechanism/growing_window.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/support/attention_problem.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/forwarding_kernels.hpp"

using namespace ringscan;
using namespace ringscan::testing;
using ringscan::test::expect;
using ringscan::test::for_each_world;

namespace {

Mechanism softmax(bool causal, std::int64_t window) {
  return SoftmaxParams{causal, window};
}

Mechanism cog(bool causal) {
  return CogParams{causal};
}

Mechanism sparse(SparseSelect select, double exponent, double alpha = 1.0, std::int64_t min_keys = 1,
                 SparseCount count = SparseCount::kVisible) {
  return SparseParams{select, alpha, exponent, min_keys, count};
}

Mechanism stick(bool attend_current, double epsilon, RemainderPolicy remainder = RemainderPolicy::kDrop) {
  return StickBreakingParams{attend_current, remainder, epsilon};
}

std::vector<Mechanism> all_mechanisms() {
  return {softmax(true, 0),
          softmax(false, 0),
          softmax(true, 1),
          softmax(true, 50),
          softmax(false, 9),
          stick(false, 0.0),
          stick(true, 0.0),
          stick(false, 0x1p-24),
          stick(true, 0x1p-24, RemainderPolicy::kValue),
          sparse(SparseSelect::kWindow, 0.7),
          sparse(SparseSelect::kTopk, 0.7),
          cog(true),
          cog(false)};
}

double tolerance_of(const Mechanism& mechanism, const AttentionProblem& problem) {
  const auto* params = std::get_if<StickBreakingParams>(&mechanism);
  return (1e-5 + (params != nullptr ? params->epsilon : 0.0)) * std::max(1.0, max_abs(problem.v));
}

/// A backend that gains by finishing rows with their last keys, which makes no use of a block afterwards.
class AtOnceKernels final : public ringscan::test::ForwardingKernels {
 public:
  AtOnceKernels() : ForwardingKernels(make_cpu_kernels()) {}

  bool gains_by_attend_last() const override { return true; }
  AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const SoftmaxParams& params, LseBlock& block,
                          Heartbeat& heartbeat) override {
    return spoiled(inner().attend_last(task, rows, params, block, heartbeat), block);
  }
  AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const CogParams& params, LseBlock& block,
                          Heartbeat& heartbeat) override {
    return spoiled(inner().attend_last(task, rows, params, block, heartbeat), block);
  }
  AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const TopkBlock& chosen, LseBlock& block,
                          Heartbeat& heartbeat) override {
    return spoiled(inner().attend_last(task, rows, chosen, block, heartbeat), block);
  }
  AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const StickBreakingParams& params,
                          StickBlock& block, Heartbeat& heartbeat) override {
    return spoiled(inner().attend_last(task, rows, params, block, heartbeat), block);
  }
  void finish(const FinishTask& task, const SoftmaxParams& params, const LseBlock& block) const override {
    ++finishes_;
    ForwardingKernels::finish(task, params, block);
  }
  void finish(const FinishTask& task, const CogParams& params, const LseBlock& block) const override {
    ++finishes_;
    ForwardingKernels::finish(task, params, block);
  }
  void finish(const FinishTask& task, const StickBreakingParams& params, const StickBlock& block) const override {
    ++finishes_;
    ForwardingKernels::finish(task, params, block);
  }
  /// Runs of rows that were not finished with their last keys.
  int finishes() const { return finishes_; }

 private:
  template <typename Block>
  static AttendStats spoiled(const AttendStats& stats, Block& block) {
    block = {};
    return stats;
  }

  mutable int finishes_ = 0;
};

/// Runs over all worlds, both layouts and several alignments, on one of them as on a backend that finishes at once.
void check_everywhere(const AttentionProblem& problem, const Mechanism& mechanism) {
  const AttentionResult exact = exact_result(problem, mechanism);
  const double tolerance = tolerance_of(mechanism, problem);
  for_each_world([&](Transport& transport) {
    const auto kernels = make_cpu_kernels();
    AtOnceKernels at_once;
    for (const LayoutKind kind : {LayoutKind::kContiguous, LayoutKind::kZigzag}) {
      for (const std::int64_t tile : {1, 16, 64}) {
        const SequenceLayout layout(kind, problem.seq_len, transport.world_size(), tile);
        Kernels& used = tile == 16 ? static_cast<Kernels&>(at_once) : *kernels;
        const RankRun run = run_over_ranks(problem, mechanism, layout, 64, transport, used);
        expect(transport, max_abs_difference(run.whole.o, exact.o) <= tolerance + exact.slack * max_abs(problem.v));
        expect(transport, max_abs_difference(run.whole.kept_mass, exact.kept_mass) <= 1e-5);
        expect(transport, max_abs_difference(run.whole.statistic, exact.statistic) <= 2.0 * tolerance);
      }
    }
  });
}

AttentionProblem make_problem(std::int64_t seq_len, std::int64_t num_heads, std::int64_t num_kv_heads,
                              std::int64_t head_dim, std::int64_t v_dim, std::int64_t batch = 1,
                              ElementType type = ElementType::kFloat32) {
  AttentionProblem problem;
  problem.seq_len = seq_len;
  problem.num_heads = num_heads;
  problem.num_kv_heads = num_kv_heads;
  problem.head_dim = head_dim;
  problem.v_dim = v_dim;
  problem.batch = batch;
  problem.type = type;
  problem.seed = static_cast<std::uint32_t>(seq_len);
  problem.fill();
  return problem;
}

}  // namespace

TEST_CASE("a pass over the ring equals the oracle at odd lengths and empty shards") {
  for (const std::int64_t seq_len : {1, 2, 5, 37, 130}) {
    const AttentionProblem problem = make_problem(seq_len, 2, 1, 8, 8);
    for (const Mechanism& mechanism : all_mechanisms()) check_everywhere(problem, mechanism);
  }
  SUCCEED();
}

TEST_CASE("a pass over the ring equals the oracle with grouped KV heads, batch, and v_dim unlike head_dim") {
  const AttentionProblem problem = make_problem(301, 6, 3, 20, 12, 2);
  for (const Mechanism& mechanism : {softmax(true, 0), softmax(false, 0), softmax(true, 70), cog(true), cog(false),
                                     stick(false, 0.0), stick(false, 0x1p-24)}) {
    check_everywhere(problem, mechanism);
  }
  SUCCEED();
}

TEST_CASE("a pass over the ring takes 16-bit keys as they are") {
  for (const ElementType type : {ElementType::kFloat16, ElementType::kBfloat16}) {
    const AttentionProblem problem = make_problem(157, 4, 2, 32, 16, 1, type);
    for (const Mechanism& mechanism : {softmax(true, 0), stick(false, 0.0)}) check_everywhere(problem, mechanism);
  }
  SUCCEED();
}

TEST_CASE("a contiguous layout on the global grid gives the same bits for any number of ranks") {
  const AttentionProblem problem = make_problem(1000, 2, 1, 16, 16);
  for (const Mechanism& mechanism : all_mechanisms()) {
    AttentionResult one_rank;
    run_ranks(1, [&](Transport& transport) {
      const auto kernels = make_cpu_kernels();
      const SequenceLayout layout(LayoutKind::kContiguous, problem.seq_len, 1, 64);
      one_rank = run_over_ranks(problem, mechanism, layout, 64, transport, *kernels).whole;
    });
    const auto has_same_bits = [&](Transport& transport) {
      const auto kernels = make_cpu_kernels();
      const SequenceLayout layout(LayoutKind::kContiguous, problem.seq_len, transport.world_size(), 64);
      const RankRun run = run_over_ranks(problem, mechanism, layout, 64, transport, *kernels);
      expect(transport, run.whole.o == one_rank.o);
      expect(transport, run.whole.statistic == one_rank.statistic);
      expect(transport, run.whole.kept_mass == one_rank.kept_mass);
    };
    for_each_world(has_same_bits);
    for (const int world_size : {5, 8}) run_ranks(world_size, has_same_bits);
  }
  SUCCEED();
}

TEST_CASE("rows are finished with their last keys, where a backend gains by that") {
  const AttentionProblem problem = make_problem(1000, 2, 1, 16, 16);
  for (const LayoutKind kind : {LayoutKind::kContiguous, LayoutKind::kZigzag}) {
    for (const Mechanism& mechanism : all_mechanisms()) {
      for_each_world([&](Transport& transport) {
        const SequenceLayout layout(kind, problem.seq_len, transport.world_size(), 64);
        const auto kernels = make_cpu_kernels();
        AtOnceKernels at_once;
        const RankRun apart = run_over_ranks(problem, mechanism, layout, 64, transport, *kernels);
        const RankRun run = run_over_ranks(problem, mechanism, layout, 64, transport, at_once);
        expect(transport, run.whole.o == apart.whole.o && run.whole.statistic == apart.whole.statistic);
        expect(transport, run.whole.kept_mass == apart.whole.kept_mass);
        expect(transport, run.pass.stats.pairs == apart.pass.stats.pairs);
        // Early exit may end the ring before; under zigzag sticks come in pieces that are joined.
        const bool is_ordered = std::holds_alternative<StickBreakingParams>(mechanism);
        if (!is_ordered || transport.world_size() == 1) expect(transport, at_once.finishes() == 0);
      });
    }
  }
  SUCCEED();
}

TEST_CASE("early exit ends the ring on all ranks, within epsilon") {
  AttentionProblem problem = make_problem(1500, 1, 1, 8, 8);
  const Mechanism mechanism = stick(false, 0x1p-24);
  const AttentionResult exact = exact_result(problem, mechanism);
  for_each_world([&](Transport& transport) {
    const auto kernels = make_cpu_kernels();
    const SequenceLayout layout(LayoutKind::kContiguous, problem.seq_len, transport.world_size(), 1);
    const RankRun run = run_over_ranks(problem, mechanism, layout, 64, transport, *kernels);
    expect(transport, max_abs_difference(run.whole.o, exact.o) <= 2e-5 * max_abs(problem.v));
    // Random sticks are gone after some tens of keys; rank 0's neighbours need its keys, later ranks nobody's.
    if (transport.world_size() >= 7) expect(transport, run.pass.steps_saved >= 3);
    if (transport.rank() == transport.world_size() - 1) expect(transport, run.pass.stats.tiles_skipped > 0);
  });
  SUCCEED();
}

TEST_CASE("the nearest keys of a shard are few of it, on the grid of key blocks, none where shards are short") {
  for (const std::int64_t seq_len : {0, 1, 1000, 4097, 1'000'000}) {
    for (const int ranks : {1, 2, 3, 8}) {
      CHECK(!NearKeys(SequenceLayout(LayoutKind::kZigzag, seq_len, ranks, 1), 64).any());
      const SequenceLayout layout(LayoutKind::kContiguous, seq_len, ranks, 1);
      const NearKeys near(layout, 64);
      CHECK(near.any() == (layout.max_local_tokens() >= 128));
      CHECK((near.tokens() % 64 == 0 && near.tokens() <= 2048 && 2 * near.tokens() <= layout.max_local_tokens()));
      for (int rank = 0; near.any() && rank < ranks; ++rank) {
        const TokenRun shard = layout.chunks(rank)[0].run;
        const TokenRun run = near.run(rank);
        CHECK((run.end == shard.end && run.begin >= shard.begin));
        CHECK((run.begin == shard.begin || (run.begin % 64 == 0 && run.size() >= near.tokens())));
        CHECK(near.tokens_by_rank()[static_cast<std::size_t>(rank)] == run.size());
      }
    }
  }
}

TEST_CASE("where the nearest keys end all sticks, no shard moves; else the ring goes on from there") {
  AttentionProblem problem = make_problem(1500, 3, 3, 8, 12, 2);
  for (const double offset : {0.0, 3.0, 6.0}) {  // sticks of some tens of keys, of hundreds, of all
    problem.q_offset = offset;
    problem.fill();
    const Mechanism mechanism = stick(false, 0x1p-24);
    const AttentionResult exact = exact_result(problem, mechanism);
    const auto check = [&](Transport& transport) {
      const auto kernels = make_cpu_kernels();
      const int ranks = transport.world_size();
      const SequenceLayout layout(LayoutKind::kContiguous, problem.seq_len, ranks, 1);
      const std::int64_t near = NearKeys(layout, 64).tokens();
      const RankRun run = run_over_ranks(problem, mechanism, layout, 64, transport, *kernels);
      expect(transport, max_abs_difference(run.whole.o, exact.o) <= 2e-5 * max_abs(problem.v));
      expect(transport, max_abs_difference(run.whole.statistic, exact.statistic) <= 1e-4);
      if (ranks == 1 || near == 0) return;
      expect(transport, run.pass.steps_taken + run.pass.steps_saved == ranks);
      const std::size_t token_bytes = 2u * 3u * (8u + 12u) * sizeof(float);
      const std::size_t near_bytes = static_cast<std::size_t>(near + 64) * token_bytes;
      const bool is_short = offset == 0.0;
      expect(transport, (run.pass.steps_taken == 2) == (is_short || ranks == 2));
      expect(transport, !is_short || run.pass.sent_bytes <= near_bytes);
      // Rank 0's keys are needed to the end: by the second rank, which sees them all.
      if (!is_short && transport.rank() == 0) expect(transport, run.pass.sent_bytes > 2 * near_bytes);
    };
    for_each_world(check);
    for (const int world_size : {5, 8}) run_ranks(world_size, check);
  }
  SUCCEED();
}

TEST_CASE("passes that the nearest keys did not end are followed by some that do not wait for these") {
  AttentionProblem problem = make_problem(600, 1, 1, 8, 8);
  problem.q_offset = 6.0;
  problem.fill();
  const Mechanism mechanism = stick(false, 0x1p-24);
  const AttentionResult exact = exact_result(problem, mechanism);
  run_ranks(3, [&](Transport& transport) {
    const auto kernels = make_cpu_kernels();
    const SequenceLayout layout(LayoutKind::kContiguous, problem.seq_len, 3, 1);
    StickLengths sticks;
    std::size_t first_bytes = 0;
    for (int pass = 0; pass < 20; ++pass) {
      const RankRun run = run_over_ranks(problem, mechanism, layout, 64, transport, *kernels, true, nullptr, &sticks);
      expect(transport, max_abs_difference(run.whole.o, exact.o) <= 2e-5 * max_abs(problem.v));
      if (pass == 0) first_bytes = run.pass.sent_bytes;
      const bool tries = pass == 0 || pass == 16;
      if (transport.rank() < 2) expect(transport, (run.pass.sent_bytes == first_bytes) == tries);
    }
  });
  SUCCEED();
}

TEST_CASE("long sticks are carried through every rank") {
  AttentionProblem problem = make_problem(700, 2, 2, 16, 16);
  problem.q_offset = 6.0;  // scores about -9
  problem.fill();
  for (const Mechanism& mechanism : {stick(false, 0.0), stick(false, 0x1p-24)}) check_everywhere(problem, mechanism);
  SUCCEED();
}

TEST_CASE("a window cuts the ring short") {
  const AttentionProblem problem = make_problem(700, 1, 1, 8, 8);
  for_each_world([&](Transport& transport) {
    const auto kernels = make_cpu_kernels();
    const SequenceLayout layout(LayoutKind::kContiguous, problem.seq_len, transport.world_size(), 1);
    const RankRun full = run_over_ranks(problem, softmax(true, 0), layout, 64, transport, *kernels);
    const RankRun cut = run_over_ranks(problem, softmax(true, 32), layout, 64, transport, *kernels);
    if (transport.world_size() >= 3) {
      expect(transport, cut.pass.steps_taken == 2);
      expect(transport, full.pass.steps_taken == transport.world_size());
      if (transport.rank() == 1) expect(transport, cut.pass.sent_bytes < full.pass.sent_bytes);
    }
  });
  SUCCEED();
}

TEST_CASE("sparse attention keeps as many keys as it should, under every exponent and count") {
  const AttentionProblem problem = make_problem(203, 2, 1, 8, 8);
  for (const SparseSelect select : {SparseSelect::kWindow, SparseSelect::kTopk}) {
    for (const Mechanism& mechanism :
         {sparse(select, 0.3), sparse(select, 1.0), sparse(select, 1.0, 0.25), sparse(select, 0.5, 1.0, 40),
          sparse(select, 0.6, 1.0, 1, SparseCount::kTotal), sparse(select, 0.7, 100.0)}) {
      check_everywhere(problem, mechanism);
    }
  }
  SUCCEED();
}

TEST_CASE("top-k cuts ties by position: few distinct keys, and keys all alike") {
  for (const int distinct : {1, 3}) {
    AttentionProblem problem = make_problem(310, 2, 1, 8, 8);
    const std::size_t row = 8;
    for (std::size_t token = 0; token < 310; ++token) {
      const std::size_t same = token * 7 % static_cast<std::size_t>(distinct);
      std::copy_n(problem.k.begin() + static_cast<std::ptrdiff_t>(same * row), row,
                  problem.k.begin() + static_cast<std::ptrdiff_t>(token * row));
    }
    for (const double exponent : {0.3, 0.7, 0.9}) check_everywhere(problem, sparse(SparseSelect::kTopk, exponent));
  }
  SUCCEED();
}

TEST_CASE("a growing window cuts the ring, and its work is counted exactly") {
  const AttentionProblem problem = make_problem(1400, 1, 1, 8, 8);
  for_each_world([&](Transport& transport) {
    const auto kernels = make_cpu_kernels();
    const SequenceLayout layout(LayoutKind::kContiguous, problem.seq_len, transport.world_size(), 1);
    const Mechanism mechanism = sparse(SparseSelect::kWindow, 0.5);
    const RankRun run = run_over_ranks(problem, mechanism, layout, 64, transport, *kernels, false);
    const GrowingWindow window(std::get<SparseParams>(mechanism), problem.seq_len);
    const TokenRun own = layout.chunks(transport.rank())[0].run;
    expect(transport, run.pass.stats.pairs == window.count_kept(own));
    expect(transport, run.pass.steps_taken == std::min(2, transport.world_size()));
  });
  SUCCEED();
}

TEST_CASE("a search holds bins only while it counts") {
  const AttentionProblem problem = make_problem(640, 2, 1, 16, 16);
  const Mechanism mechanism = sparse(SparseSelect::kTopk, 0.7);
  for_each_world([&](Transport& transport) {
    const auto kernels = make_cpu_kernels();
    const SequenceLayout layout(LayoutKind::kContiguous, problem.seq_len, transport.world_size(), 1);
    const RankRun run = run_over_ranks(problem, mechanism, layout, 64, transport, *kernels);
    const std::int64_t tokens = layout.max_local_tokens();
    const std::size_t kv_bytes = static_cast<std::size_t>(tokens * (16 + 16)) * sizeof(float);
    const std::size_t block_bytes = kernels->block_bytes(mechanism, {1, tokens, 2, 16});
    expect(transport, run.peak_bytes <= (transport.world_size() > 1 ? 2 * kv_bytes : 0) + block_bytes);
  });
  SUCCEED();
}

TEST_CASE("a pass holds two KV buffers and one accumulator, whatever the number of ranks") {
  const AttentionProblem problem = make_problem(640, 2, 1, 16, 16);
  for_each_world([&](Transport& transport) {
    const auto kernels = make_cpu_kernels();
    const SequenceLayout layout(LayoutKind::kContiguous, problem.seq_len, transport.world_size(), 1);
    const RankRun run = run_over_ranks(problem, softmax(true, 0), layout, 64, transport, *kernels);
    const std::int64_t tokens = layout.max_local_tokens();
    const std::size_t kv_bytes = static_cast<std::size_t>(tokens * (16 + 16)) * sizeof(float);
    const std::size_t accumulator_bytes = kernels->block_bytes(softmax(true, 0), {1, tokens, 2, 16});
    expect(transport, run.peak_bytes <= (transport.world_size() > 1 ? 2 * kv_bytes : 0) + accumulator_bytes);
  });
  SUCCEED();
}
