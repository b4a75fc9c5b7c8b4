// Linear attention over ranks, against the recurrence; compiled once with ranks as threads and once under mpirun.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "comm/local_transport.hpp"
#include "engine/linear_pass.hpp"
#include "engine/resident.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/support/attention_problem.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/far_kernels.hpp"
#include "tests/support/far_transport.hpp"
#include "tests/support/linear_problem.hpp"

using namespace ringscan;
using namespace ringscan::testing;
using ringscan::test::expect;
using ringscan::test::FarLinear;
using ringscan::test::FarMemory;
using ringscan::test::FarTransport;
using ringscan::test::for_each_world;

namespace {

struct LinearRun {
  RingPassResult pass;
  std::size_t peak_bytes = 0;
  std::vector<LinearState> final_states;
  std::vector<double> whole;  ///< o, gathered: the same on every rank
};

/// Collective: the tokens [begin, end) of the problem, over the transport's ranks.
LinearRun run_over_ranks(const LinearProblem& problem, const TokenRun& part, std::int64_t tile, bool reproducible,
                         std::span<const LinearState> initial, Transport& transport, const LinearKernels& kernels) {
  const SequenceLayout layout(LayoutKind::kContiguous, part.size(), transport.world_size(), tile);
  const Chunk chunk = layout.chunks(transport.rank())[0];
  const TokenRun mine{part.begin + chunk.run.begin, part.begin + chunk.run.end};
  const auto shard = [&](const std::vector<float>& whole, std::int64_t row_elements, ElementType type) {
    std::vector<std::byte> bytes;
    for (std::int64_t b = 0; b < problem.batch; ++b) {
      const auto count = static_cast<std::size_t>(mine.size() * row_elements);
      const std::size_t before = bytes.size();
      bytes.resize(before + count * size_of(type));
      convert_elements(whole.data() + (b * problem.seq_len + mine.begin) * row_elements, ElementType::kFloat32,
                       bytes.data() + before, type, count);
    }
    return bytes;
  };
  const std::int64_t tokens = mine.size();
  const auto q = shard(problem.q, problem.num_heads * problem.head_dim, problem.type);
  const auto k = shard(problem.k, problem.num_kv_heads * problem.head_dim, problem.type);
  const auto v = shard(problem.v, problem.num_kv_heads * problem.v_dim, problem.type);
  const auto log_decay = shard(problem.log_decay, problem.num_heads, ElementType::kFloat32);
  const Shape4 o_shape{problem.batch, tokens, problem.num_heads, problem.v_dim};
  std::vector<float> o(static_cast<std::size_t>(element_count(o_shape)), std::numeric_limits<float>::quiet_NaN());
  const auto slots = problem.slots();
  std::vector<int> columns;
  for (int head = 0; head < problem.num_heads; ++head) columns.push_back(head);

  LinearRun run;
  LinearPassTask task;
  task.layout = &layout;
  task.params = problem.params;
  task.scale = problem.scale();
  MemorySpace& space = kernels.memory();
  const auto place = [&](const std::vector<std::byte>& bytes, ElementType type, std::int64_t heads, std::int64_t dim) {
    return Resident(dense_any_view(bytes.data(), type, {problem.batch, tokens, heads, dim}), space);
  };
  const Resident q_there = place(q, problem.type, problem.num_heads, problem.head_dim);
  const Resident k_there = place(k, problem.type, problem.num_kv_heads, problem.head_dim);
  const Resident v_there = place(v, problem.type, problem.num_kv_heads, problem.v_dim);
  const Resident decay_there = place(log_decay, ElementType::kFloat32, problem.num_heads, 1);
  task.q = q_there.view();
  task.k = k_there.view();
  task.v = v_there.view();
  task.slots = slots;
  task.log_decay = decay_there.view();
  task.decay_columns = columns;
  task.head_log_decay = problem.head_log_decay;
  // NaN in both memories: a row that is not written is seen.
  Buffer o_there(space.is_host() ? 0 : o.size() * sizeof(float), nullptr, space);
  task.o =
      dense_any_view(space.is_host() ? static_cast<void*>(o.data()) : o_there.data(), ElementType::kFloat32, o_shape);
  task.reproducible = reproducible;
  task.initial = initial;
  task.final_states = &run.final_states;
  MemoryLedger ledger;
  run.pass = run_linear_pass(task, transport, kernels, &ledger);
  if (o_there.size_bytes() > 0) space.copy_out(o.data(), o_there.data(), o_there.size_bytes());
  run.peak_bytes = ledger.peak_bytes();
  expect(transport, run.final_states.size() ==
                        (transport.rank() == state_owner(layout) ? StateGroups(slots.size(), kernels).count() : 0));

  const std::int64_t row = problem.num_heads * problem.v_dim;
  run.whole.assign(static_cast<std::size_t>(problem.batch * problem.seq_len * row), 0.0);
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    std::copy_n(o.begin() + b * tokens * row, tokens * row,
                run.whole.begin() + (b * problem.seq_len + mine.begin) * row);
  }
  transport.all_reduce(std::span<double>(run.whole), ReduceOp::kSum);
  return run;
}

LinearProblem make_problem(std::int64_t seq_len, const LinearParams& params, double decay, std::int64_t batch = 1,
                           ElementType type = ElementType::kFloat32) {
  LinearProblem problem;
  problem.batch = batch;
  problem.seq_len = seq_len;
  problem.num_heads = 4;
  problem.num_kv_heads = 2;
  problem.head_dim = 12;
  problem.v_dim = 20;
  problem.type = type;
  problem.params = params;
  problem.decay = decay;
  problem.seed = static_cast<std::uint32_t>(seq_len);
  problem.fill();
  return problem;
}

const LinearParams kToken{Decay::kToken, FeatureMap::kIdentity, Normalizer::kNone};
const LinearParams kNormalised{Decay::kHead, FeatureMap::kElu1, Normalizer::kZ};
const LinearParams kPlain{Decay::kNone, FeatureMap::kIdentity, Normalizer::kNone};

void check_everywhere(const LinearProblem& problem) {
  const std::vector<double> exact = exact_linear(problem);
  const auto check = [&](Transport& transport) {
    const auto kernels = make_cpu_kernels();
    for (const std::int64_t tile : {1, 64}) {
      for (const bool reproducible : {false, true}) {
        const LinearRun run =
            run_over_ranks(problem, {0, problem.seq_len}, tile, reproducible, {}, transport, kernels->linear());
        expect(transport, linear_error(problem, run.whole, exact) <= 5e-6);
      }
    }
  };
  for_each_world(check);
  for (const int world_size : {5, 8}) run_ranks(world_size, check);
}

}  // namespace

TEST_CASE("states carried over the ranks equal the oracle at odd lengths and empty shards") {
  for (const std::int64_t seq_len : {1, 2, 5, 130, 300}) {
    for (const LinearParams& params : {kToken, kNormalised, kPlain})
      check_everywhere(make_problem(seq_len, params, 0.05));
  }
  SUCCEED();
}

TEST_CASE("batch, 16-bit inputs and strong decays over the ranks equal the oracle") {
  check_everywhere(make_problem(157, kToken, 0.01, 2, ElementType::kBfloat16));
  check_everywhere(make_problem(157, kNormalised, 0.0, 3, ElementType::kFloat16));
  check_everywhere(make_problem(200, kToken, 50.0));
  SUCCEED();
}

TEST_CASE("reproducible: the same bits for any number of ranks, states included") {
  const LinearProblem problem = make_problem(1000, {Decay::kToken, FeatureMap::kElu1, Normalizer::kZ}, 0.01);
  const TokenRun all{0, problem.seq_len};
  LinearRun one_rank;
  run_ranks(1, [&](Transport& transport) {
    one_rank = run_over_ranks(problem, all, 64, true, {}, transport, make_cpu_kernels()->linear());
  });
  const auto has_same_bits = [&](Transport& transport) {
    const LinearRun run = run_over_ranks(problem, all, 64, true, {}, transport, make_cpu_kernels()->linear());
    expect(transport, run.whole == one_rank.whole);
    for (std::size_t slot = 0; slot < run.final_states.size(); ++slot) {
      const auto bytes = run.final_states[slot].data.bytes();
      expect(transport, std::equal(bytes.begin(), bytes.end(), one_rank.final_states[slot].data.bytes().begin()));
    }
  };
  for_each_world(has_same_bits);
  for (const int world_size : {5, 8}) run_ranks(world_size, has_same_bits);
  SUCCEED();
}

namespace {

/// Collective: tokens [0, cut) and [cut, seq_len) as two jobs, the state handed from one to the other in fp64, as a
/// file would bring it; their outputs as one.
std::vector<double> run_cut_in_two(const LinearProblem& problem, std::int64_t cut, bool reproducible,
                                   Transport& transport, const LinearKernels& linear) {
  LinearRun early = run_over_ranks(problem, {0, cut}, 1, reproducible, {}, transport, linear);
  const bool with_n = problem.params.normalizer == Normalizer::kZ;
  const auto heads = static_cast<std::size_t>(problem.num_heads);
  const StateGroups groups(heads, linear);
  std::vector<LinearState> handed =
      groups.make_states({1, 1, problem.head_dim, problem.v_dim, with_n}, linear, nullptr);
  for (std::size_t slot = 0; slot < heads; ++slot) {
    const std::size_t group = groups.group_of(slot);
    std::vector<double> s(static_cast<std::size_t>(problem.head_dim * problem.v_dim), 0.0);
    std::vector<double> n(static_cast<std::size_t>(problem.head_dim), 0.0);
    if (!early.final_states.empty()) linear.load(early.final_states[group], 0, groups.place_of(slot), s, n);
    transport.all_reduce(std::span<double>(s), ReduceOp::kSum);
    transport.all_reduce(std::span<double>(n), ReduceOp::kSum);
    linear.store(handed[group], 0, groups.place_of(slot), s, n);
  }
  const LinearRun late = run_over_ranks(problem, {cut, problem.seq_len}, 1, reproducible, handed, transport, linear);
  std::vector<double> both(early.whole.size());
  std::transform(early.whole.begin(), early.whole.end(), late.whole.begin(), both.begin(), std::plus<>());
  return both;
}

}  // namespace

TEST_CASE("a sequence cut in two, its state handed over, equals the whole") {
  for (const LinearParams& params : {kToken, kNormalised}) {
    const LinearProblem problem = make_problem(300, params, 0.02);
    const std::vector<double> exact = exact_linear(problem);
    for (const bool reproducible : {false, true}) {
      run_ranks(3, [&](Transport& transport) {
        const auto kernels = make_cpu_kernels();
        const auto both = run_cut_in_two(problem, 133, reproducible, transport, kernels->linear());
        expect(transport, linear_error(problem, both, exact) <= 5e-6);
      });
    }
  }
  SUCCEED();
}

TEST_CASE("heads that share states in a device's memory give what heads apart do, cut in two as well") {
  for (const std::int64_t seq_len : {1, 5, 300}) {
    for (const LinearParams& params : {kToken, kNormalised, kPlain}) {
      const LinearProblem problem = make_problem(seq_len, params, 0.05, 1);
      const std::vector<double> exact = exact_linear(problem);
      const auto check = [&](Transport& transport) {
        const auto near = make_cpu_kernels();
        for (const bool has_queue : {false, true}) {
          for (const bool is_carried : {false, true}) {
            FarMemory memory(has_queue);
            const FarLinear far(near->linear(), memory);
            FarTransport carrier(transport);
            Transport& way = is_carried ? static_cast<Transport&>(carrier) : transport;
            for (const bool reproducible : {false, true}) {
              const TokenRun all{0, seq_len};
              const auto wanted = run_over_ranks(problem, all, 1, reproducible, {}, transport, near->linear());
              const auto found = run_over_ranks(problem, all, 1, reproducible, {}, way, far);
              expect(transport, found.pass.flops == wanted.pass.flops);
              const std::int64_t cut = seq_len / 2;
              const auto in_two = run_cut_in_two(problem, cut, reproducible, way, far);
              if (has_queue && is_carried && !reproducible) {  // all at once: joined in another order
                expect(transport, linear_error(problem, found.whole, exact) <= 5e-6);
                expect(transport, linear_error(problem, in_two, exact) <= 5e-6);
                continue;
              }
              expect(transport, found.whole == wanted.whole);
              expect(transport, in_two == run_cut_in_two(problem, cut, reproducible, transport, near->linear()));
            }
          }
        }
      };
      for_each_world(check);
      run_ranks(5, check);
    }
  }
  SUCCEED();
}

TEST_CASE("a pass holds no more states than it says, and sends at most log2 of the ranks") {
  const LinearProblem problem = make_problem(640, kToken, 0.1);
  for_each_world([&](Transport& transport) {
    const auto kernels = make_cpu_kernels();
    const std::size_t state_bytes = kernels->linear().state_bytes({1, 1, 12, 20, false});
    for (const bool reproducible : {false, true}) {
      const LinearRun run = run_over_ranks(problem, {0, 640}, 64, reproducible, {}, transport, kernels->linear());
      expect(transport, run.peak_bytes <= linear_pass_states(4, reproducible) * state_bytes);
      expect(transport, run.pass.sent_bytes <= (reproducible ? 1 : 3) * 4 * state_bytes);
      if (transport.world_size() > 1 && transport.rank() == 0) expect(transport, run.pass.sent_bytes > 0);
    }
  });
  SUCCEED();
}

TEST_CASE("states go to all ranks behind at once where a device's queue waits for them, few and small ones") {
  constexpr std::size_t kMegabyte = std::size_t{1} << 20;
  CHECK(linear_scan_kind(true, true, 4, kMegabyte) == ScanKind::kSerial);
  CHECK(linear_scan_kind(false, false, 4, kMegabyte) == ScanKind::kLogarithmic);
  CHECK(linear_scan_kind(false, true, 1, kMegabyte) == ScanKind::kDirect);
  CHECK(linear_scan_kind(false, true, 16, kMegabyte) == ScanKind::kDirect);
  CHECK(linear_scan_kind(false, true, 17, kMegabyte) == ScanKind::kLogarithmic);
  CHECK(linear_scan_kind(false, true, 8, 4 * kMegabyte) == ScanKind::kLogarithmic);

  const LinearProblem problem = make_problem(40, kToken, 0.05);
  run_ranks(5, [&](Transport& transport) {
    const auto near = make_cpu_kernels();
    FarMemory memory(true);
    const FarLinear far(near->linear(), memory);
    FarTransport carrier(transport);
    const LinearRun run = run_over_ranks(problem, {0, 40}, 1, false, {}, carrier, far);
    const std::size_t all_heads =
        near->linear().state_bytes({1, 3, 12, 20, false}) + near->linear().state_bytes({1, 1, 12, 20, false});
    expect(transport, run.pass.sent_bytes == static_cast<std::size_t>(4 - transport.rank()) * all_heads);
    expect(transport, run.pass.steps_taken == 4);
  });
}
