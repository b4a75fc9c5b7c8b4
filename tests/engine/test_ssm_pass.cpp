// Halo, selective scan and Mamba block over the ranks, against the oracle: compiled once with ranks as threads and once
// under mpirun.

#include "engine/ssm_pass.hpp"

#include <array>

#include "comm/local_transport.hpp"
#include "engine/halo.hpp"
#include "engine/mamba_pass.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/far_blocks.hpp"
#include "tests/support/guarded_blocks.hpp"
#include "tests/support/mamba_problem.hpp"
#include "tests/support/ssm_problem.hpp"

using namespace ringscan;
using namespace ringscan::testing;
using ringscan::test::expect;
using ringscan::test::for_each_world;

namespace {

constexpr double kBound = 1e-5;

SequenceLayout contiguous(std::int64_t seq_len, const Transport& transport, std::int64_t tile = 1) {
  return {LayoutKind::kContiguous, seq_len, transport.world_size(), tile};
}

/// Puts each rank's tokens [batch, local tokens, width] in their places of the whole; all ranks get it.
std::vector<double> gather(const std::vector<float>& own, std::int64_t batch, std::int64_t width,
                           const SequenceLayout& layout, Transport& transport) {
  const TokenRun run = layout.chunks(transport.rank())[0].run;
  std::vector<double> whole(static_cast<std::size_t>(batch * layout.seq_len() * width), 0.0);
  for (std::int64_t b = 0; b < batch; ++b) {
    std::copy_n(own.begin() + b * run.size() * width, run.size() * width,
                whole.begin() + (b * layout.seq_len() + run.begin) * width);
  }
  transport.all_reduce(whole, ReduceOp::kSum);
  return whole;
}

/// The state that the last rank has, on all ranks.
std::vector<float> gather_state(const std::vector<float>& own, const SequenceLayout& layout, Transport& transport) {
  std::vector<double> whole(own.size(), 0.0);
  if (transport.rank() == last_rank_of(layout)) std::copy(own.begin(), own.end(), whole.begin());
  transport.all_reduce(whole, ReduceOp::kSum);
  return {whole.begin(), whole.end()};
}

struct PassRun {
  std::vector<double> y;
  std::vector<float> state;
  std::vector<float> conv;
  SsmPassResult result;
};

PassRun run_ssm(const SsmProblem& p, const SequenceLayout& layout, Transport& transport, bool reproducible,
                const std::vector<float>& initial = {}) {
  const auto kernels = make_cpu_ssm_kernels();
  const TokenRun run = layout.chunks(transport.rank())[0].run;
  std::vector<float> y(static_cast<std::size_t>(p.batch * run.size() * p.channels));
  std::vector<float> state(p.state_size(), -1.0f);
  SsmPassTask task;
  task.layout = &layout;
  task.inputs = p.inputs(run);
  task.y = dense_view(y.data(), {p.batch, run.size(), 1, p.channels});
  task.initial_state = initial.empty() ? nullptr : initial.data();
  task.final_state = state.data();
  task.reproducible = reproducible;
  Heartbeat heartbeat;
  MemoryLedger ledger;
  PassRun out;
  out.result = run_ssm_pass(task, transport, *kernels, &ledger, heartbeat);
  expect(transport, ledger.peak_bytes() <= ssm_pass_bytes(p.batch, p.channels, p.d_state));
  out.y = gather(y, p.batch, p.channels, layout, transport);
  out.state = gather_state(state, layout, transport);
  return out;
}

PassRun run_mamba(const MambaProblem& p, const PlacedMambaWeights& weights, std::int64_t first_token,
                  std::int64_t count, Transport& transport, std::int64_t block_channels, bool reproducible,
                  const PassRun* before, SsmKernels& kernels) {
  const MambaShape& shape = p.weights.shape;
  const SequenceLayout layout = contiguous(count, transport);
  const TokenRun run = layout.chunks(transport.rank())[0].run;
  std::vector<float> out(static_cast<std::size_t>(p.batch * run.size() * shape.d_out));
  std::vector<float> initial_h, initial_conv;
  PassRun result;
  result.state.assign(static_cast<std::size_t>(p.batch * shape.d_inner * shape.d_state), -1.0f);
  result.conv.assign(static_cast<std::size_t>(p.batch * (shape.conv_width - 1) * shape.d_inner), -1.0f);
  MambaPassTask task;
  task.layout = &layout;
  task.weights = &weights;
  task.x = dense_any_view(p.x.data(), ElementType::kFloat32, {p.batch, p.seq_len, 1, shape.d_model})
               .tokens(first_token + run.begin, run.size());
  task.out = dense_view(out.data(), {p.batch, run.size(), 1, shape.d_out});
  if (before != nullptr) {
    initial_h = before->state;
    initial_conv = before->conv;
    task.initial = {initial_h.data(), initial_conv.data()};
  }
  task.final = {result.state.data(), result.conv.data()};
  task.block_channels = block_channels;
  task.reproducible = reproducible;
  Heartbeat heartbeat;
  MemoryLedger ledger;
  result.result = run_mamba_pass(task, transport, kernels, &ledger, heartbeat);
  const std::int64_t chunk = kernels.chunk_tokens();
  expect(transport, ledger.peak_bytes() <= mamba_pass_bytes(shape, p.batch, run.size(), block_channels, chunk));
  result.y = gather(out, p.batch, shape.d_out, layout, transport);
  result.state = gather_state(result.state, layout, transport);
  result.conv = gather_state(result.conv, layout, transport);
  return result;
}

PassRun run_mamba(const MambaProblem& p, std::int64_t first_token, std::int64_t count, Transport& transport,
                  std::int64_t block_channels, bool reproducible, const PassRun* before, SsmKernels& kernels) {
  const PlacedMambaWeights weights(p.weights, kernels.work_memory());
  return run_mamba(p, weights, first_token, count, transport, block_channels, reproducible, before, kernels);
}

PassRun run_mamba(const MambaProblem& p, std::int64_t first_token, std::int64_t count, Transport& transport,
                  std::int64_t block_channels, bool reproducible, const PassRun* before = nullptr) {
  const auto kernels = make_cpu_ssm_kernels();
  return run_mamba(p, first_token, count, transport, block_channels, reproducible, before, *kernels);
}

}  // namespace

TEST_CASE("a halo reaches back over short and empty shards") {
  for_each_world([&](Transport& transport) {
    for (const std::int64_t seq_len : {1, 5, 40}) {
      for (const std::int64_t width : {1, 3, 11}) {
        const SequenceLayout layout = contiguous(seq_len, transport);
        const TokenRun own = layout.chunks(transport.rank())[0].run;
        const auto value = [](std::int64_t batch, std::int64_t token, std::int64_t i) {
          return static_cast<float>(1000 * batch + 10 * token + i);
        };
        std::vector<float> rows, initial;
        for (std::int64_t batch = 0; batch < 2; ++batch) {
          for (std::int64_t t = own.begin; t < own.end; ++t) {
            for (std::int64_t i = 0; i < 3; ++i) rows.push_back(value(batch, t, i));
          }
          for (std::int64_t t = -width; t < 0; ++t) {
            for (std::int64_t i = 0; i < 3; ++i) initial.push_back(value(batch, t, i));
          }
        }
        const HaloSchedule schedule = make_halo_schedule(layout, transport.rank(), width);
        const std::int64_t halo_rows = schedule.halo.size();
        std::vector<float> halo(static_cast<std::size_t>(2 * halo_rows * 3)), last(initial.size());
        const TokenRows tail{own, dense_view<const float>(rows.data(), {2, own.size(), 1, 3})};
        const auto halo_view = dense_view(halo.data(), {2, halo_rows, 1, 3});
        carry_halo(schedule, tail, dense_view<const float>(initial.data(), {2, width, 1, 3}), halo_view, transport);
        for (std::int64_t batch = 0; batch < 2; ++batch) {
          for (std::int64_t i = 0; i < halo_rows; ++i) {
            for (std::int64_t j = 0; j < 3; ++j) {
              expect(transport, halo_view.row(batch, i, 0)[j] == value(batch, schedule.halo.begin + i, j));
            }
          }
        }
        if (own.empty()) continue;
        const auto last_view = dense_view(last.data(), {2, width, 1, 3});
        last_rows(schedule, dense_view<const float>(halo.data(), {2, halo_rows, 1, 3}), tail, last_view);
        expect(transport, last_view.row(1, width - 1, 0)[2] == value(1, own.end - 1, 2));
        expect(transport, last_view.row(1, 0, 0)[0] == value(1, own.end - width, 0));
      }
    }
  });
  SUCCEED();
}

TEST_CASE("a scan over the ranks equals the oracle at odd lengths and empty shards") {
  for (const std::int64_t seq_len : {1, 2, 5, 37, 301}) {
    const SsmProblem p = make_ssm_problem(seq_len, 20, 5, 2, 2);
    const SsmResult exact = exact_result(p);
    for_each_world([&](Transport& transport) {
      for (const std::int64_t tile : {1, 16}) {
        for (const bool reproducible : {false, true}) {
          const PassRun run = run_ssm(p, contiguous(seq_len, transport, tile), transport, reproducible);
          expect(transport, relative_error(run.y, exact.y) <= kBound);
          expect(transport, relative_error(run.state, exact.h) <= kBound);
        }
      }
    });
  }
  SUCCEED();
}

TEST_CASE("a state that hardly decays is carried through every rank") {
  SsmProblem p = make_ssm_problem(500, 17, 3);
  p.delta_low = 1e-5;
  p.delta_high = 1e-4;
  p.fill();
  const SsmResult exact = exact_result(p);
  for_each_world([&](Transport& transport) {
    const PassRun run = run_ssm(p, contiguous(p.seq_len, transport), transport, false);
    expect(transport, relative_error(run.y, exact.y) <= kBound);
    const std::int64_t corrected = transport.RankGroup::all_reduce(run.result.corrected, ReduceOp::kSum);
    const std::int64_t after_first = p.seq_len - contiguous(p.seq_len, transport).local_tokens(0);
    expect(transport, corrected == after_first * p.channels);
  });
  SUCCEED();
}

TEST_CASE("reproducible: the same bits for any number of ranks") {
  const SsmProblem p = make_ssm_problem(333, 70, 4, 2, 2);
  PassRun one;
  run_ranks(1, [&](Transport& solo) { one = run_ssm(p, contiguous(p.seq_len, solo), solo, true); });
  const auto has_same_bits = [&](Transport& transport) {
    const PassRun run = run_ssm(p, contiguous(p.seq_len, transport), transport, true);
    expect(transport, run.y == one.y);
    expect(transport, run.state == one.state);
  };
  for_each_world(has_same_bits);
  for (const int world_size : {5, 8}) run_ranks(world_size, has_same_bits);
  SUCCEED();
}

TEST_CASE("a scan goes on from the state it is given") {
  const SsmProblem p = make_ssm_problem(90, 18, 3, 1, 2);
  std::vector<float> initial(p.state_size());
  for (std::size_t i = 0; i < initial.size(); ++i) initial[i] = std::sin(static_cast<float>(i));
  const SsmResult exact = exact_result(p, initial);
  for_each_world([&](Transport& transport) {
    for (const bool reproducible : {false, true}) {
      const PassRun run = run_ssm(p, contiguous(p.seq_len, transport), transport, reproducible, initial);
      expect(transport, relative_error(run.y, exact.y) <= kBound);
      expect(transport, relative_error(run.state, exact.h) <= kBound);
    }
  });
  SUCCEED();
}

TEST_CASE("a Mamba block over the ranks equals the oracle, in one block of channels and in several") {
  for (const std::int64_t seq_len : {1, 3, 10, 150}) {
    for (const std::int64_t conv_width : {4, 6}) {
      const MambaProblem p = make_mamba_problem(seq_len, {10, 20, 4, 2, 7, conv_width}, 2);
      const std::vector<double> exact = exact_result(p);
      for_each_world([&](Transport& transport) {
        for (const std::int64_t block : {20, 9}) {
          const PassRun run = run_mamba(p, 0, seq_len, transport, block, false);
          expect(transport, relative_error(run.y, exact) <= kBound);
        }
      });
    }
  }
  SUCCEED();
}

TEST_CASE("a Mamba block touches a device's memory by kernels and copies alone") {
  const MambaProblem p = make_mamba_problem(330, {10, 20, 4, 2, 7, 6}, 2);
  const std::vector<double> exact = exact_result(p);
  const std::int64_t cut = 141;
  for_each_world([&](Transport& transport) {
    test::GuardedMemory memory;
    test::GuardedSsm kernels(memory);
    for (const std::int64_t block : {20, 9}) {
      const PassRun first = run_mamba(p, 0, cut, transport, block, false, nullptr, kernels);
      const PassRun second = run_mamba(p, cut, p.seq_len - cut, transport, block, false, &first, kernels);
      std::vector<double> y;
      for (std::int64_t b = 0; b < p.batch; ++b) {
        const std::int64_t row = p.weights.shape.d_out, left = p.seq_len - cut;
        y.insert(y.end(), first.y.begin() + b * cut * row, first.y.begin() + (b + 1) * cut * row);
        y.insert(y.end(), second.y.begin() + b * left * row, second.y.begin() + (b + 1) * left * row);
      }
      expect(transport, relative_error(y, exact) <= kBound);
    }
  });
  SUCCEED();
}

TEST_CASE("a Mamba block's weights go to a device once for any number of passes, and nowhere on the host") {
  const MambaProblem p = make_mamba_problem(61, {10, 20, 4, 2, 7, 4});
  const PlacedMambaWeights here(p.weights, host_memory());
  REQUIRE(here.in_proj.data() == p.weights.in_proj.data());
  REQUIRE(here.conv_weight.data() == p.weights.conv_weight.data());
  for_each_world([&](Transport& transport) {
    test::FarMemory memory;
    test::FarSsm kernels(memory);
    const PlacedMambaWeights weights(p.weights, memory);
    const std::size_t weight_bytes = memory.copied_in_bytes();
    expect(transport, weight_bytes == 1000 * sizeof(float));
    const auto wanted = run_mamba(p, 0, p.seq_len, transport, 20, false).y;
    for (int pass = 0; pass < 2; ++pass) {
      const std::size_t before = memory.copied_in_bytes();
      expect(transport, run_mamba(p, weights, 0, p.seq_len, transport, 20, false, nullptr, kernels).y == wanted);
      expect(transport, memory.copied_in_bytes() - before < weight_bytes / 4);  // halos
    }
  });
  SUCCEED();
}

TEST_CASE("reproducible: a Mamba block has the same bits for any number of ranks") {
  const MambaProblem p = make_mamba_problem(1100, {12, 40, 4, 3, 12, 4});
  PassRun one;
  run_ranks(1, [&](Transport& solo) { one = run_mamba(p, 0, p.seq_len, solo, 16, true); });
  const auto has_same_bits = [&](Transport& transport) {
    const PassRun run = run_mamba(p, 0, p.seq_len, transport, 16, true);
    expect(transport, run.y == one.y);
    expect(transport, run.state == one.state);
    expect(transport, run.conv == one.conv);
  };
  for_each_world(has_same_bits);
  for (const int world_size : {5, 8}) run_ranks(world_size, has_same_bits);
  SUCCEED();
}

TEST_CASE("a Mamba block cut into two jobs gives what one gives") {
  const MambaProblem p = make_mamba_problem(61, {10, 20, 4, 2, 7, 4}, 1);
  const std::vector<double> exact = exact_result(p);
  for_each_world([&](Transport& transport) {
    for (const std::int64_t cut : {1, 2, 40, 60}) {
      const PassRun first = run_mamba(p, 0, cut, transport, 20, false);
      const PassRun second = run_mamba(p, cut, p.seq_len - cut, transport, 9, false, &first);
      std::vector<double> y = first.y;
      y.insert(y.end(), second.y.begin(), second.y.end());
      expect(transport, relative_error(y, exact) <= kBound);
    }
  });
  SUCCEED();
}
