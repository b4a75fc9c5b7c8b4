// The CHELA block over the ranks against the oracle; compiled once with ranks as threads and once under mpirun.

#include <cmath>

#include "comm/local_transport.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/chela_problem.hpp"
#include "tests/support/far_blocks.hpp"
#include "tests/support/far_kernels.hpp"
#include "tests/support/far_transport.hpp"
#include "tests/support/guarded_blocks.hpp"

using namespace ringscan;
using namespace ringscan::testing;
using ringscan::test::expect;
using ringscan::test::for_each_world;

namespace {

constexpr double kBound = 1e-5;

ChelaProblem make(std::int64_t seq_len, const ChelaShape& shape, std::int64_t batch = 1) {
  ChelaProblem p;
  p.weights.shape = shape;
  p.batch = batch;
  p.seq_len = seq_len;
  p.fill();
  return p;
}

std::vector<ChelaProblem> problems() {
  return {make(1, {4, 4, 1, 1, 1}),         make(3, {6, 4, 2, 4, 3}, 2),  // empty shards
          make(37, {8, 12, 4, 20, 37}),                                   // a halo over several shards
          make(130, {12, 8, 1, 3, 100}, 2),                               // a kernel longer than a shard
          make(301, {20, 10, 5, 4, 301}),                                 // the whole sequence
          make(301, {20, 10, 5, 4, 400}),                                 // and more
          make(1100, {9, 6, 3, 7, 90})};
}

/// Errors count against the largest |wanted|.
bool is_close(const std::vector<double>& found, const std::vector<double>& wanted, double bound = kBound) {
  if (found.size() != wanted.size()) return false;
  double largest = 0.0;
  for (const double value : wanted) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (!(std::abs(found[i] - wanted[i]) <= bound * largest)) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("the CHELA block over the ranks equals the oracle at odd lengths, with empty shards and long halos") {
  for (const ChelaProblem& p : problems()) {
    const auto wanted = p.exact();
    for_each_world([&](Transport& transport) {
      expect(transport, is_close(run_chela(p, {0, p.seq_len}, nullptr, 1, false, transport).y, wanted));
      expect(transport, is_close(run_chela(p, {0, p.seq_len}, nullptr, 64, true, transport).y, wanted));
    });
  }
  SUCCEED();
}

TEST_CASE("the CHELA block touches a device's memory by kernels and copies alone") {
  for (const ChelaProblem& p : problems()) {
    const auto wanted = p.exact();
    for_each_world([&](Transport& transport) {
      const auto kernels = make_cpu_kernels();
      test::GuardedMemory memory;
      const test::GuardedSsm ssm(memory);
      const test::GuardedChela chela(memory);
      const test::GuardedLinear linear(kernels->linear(), memory);
      for (const bool reproducible : {false, true}) {
        const ChelaRun run =
            run_chela(p, {0, p.seq_len}, nullptr, reproducible ? 64 : 1, reproducible, transport, {chela, ssm, linear});
        expect(transport, is_close(run.y, wanted));
        const ChelaRun there = run_chela(p, {0, p.seq_len}, nullptr, 1, false, transport);
        expect(transport, is_close(run.kept.long_inputs, there.kept.long_inputs));
        expect(transport, is_close(run.kept.short_inputs, there.kept.short_inputs));
      }
    });
  }
  SUCCEED();
}

TEST_CASE("the CHELA block gives the same bits where a transport carries a device's memory, cut in two as well") {
  for (const std::int64_t batch : {1, 2}) {
    const ChelaProblem p = make(1101, {9, 6, 3, 7, 90}, batch);  // from token 400 on by halo, over any ranks
    for_each_world([&](Transport& transport) {
      const auto kernels = make_cpu_kernels();
      for (const bool has_queue : {false, true}) {
        for (const bool is_carried : {false, true}) {
          test::FarMemory memory(has_queue);
          const test::FarSsm ssm(memory);
          const test::FarChela chela(memory, is_carried);
          const test::FarLinear linear(kernels->linear(), memory);
          test::FarTransport carrier(transport, &memory);
          Transport& way = is_carried ? static_cast<Transport&>(carrier) : transport;
          ChelaKept kept_far, kept;
          for (const TokenRun& run : {TokenRun{0, 400}, TokenRun{400, p.seq_len}}) {
            const ChelaRun far =
                run_chela(p, run, run.begin == 0 ? nullptr : &kept_far, 1, false, way, {chela, ssm, linear});
            const ChelaRun near = run_chela(p, run, run.begin == 0 ? nullptr : &kept, 1, false, transport);
            expect(transport, far.y == near.y && far.kept.state == near.kept.state);
            expect(transport, far.kept.short_inputs == near.kept.short_inputs);
            expect(transport, far.kept.long_inputs == near.kept.long_inputs);
            kept_far = far.kept;
            kept = near.kept;
          }
        }
      }
    });
  }
  SUCCEED();
}

TEST_CASE("a CHELA block's weights go to a device once for any number of passes, and nowhere on the host") {
  const ChelaProblem p = make(61, {20, 10, 5, 4, 3});
  const PlacedChelaWeights here(p.weights, host_memory());
  REQUIRE(here.w_v.data() == p.weights.w_v.data());
  REQUIRE(here.long_conv.data() == p.weights.long_conv.data());
  for_each_world([&](Transport& transport) {
    const auto kernels = make_cpu_kernels();
    test::FarMemory memory;
    const test::FarSsm ssm(memory);
    const test::FarChela chela(memory, false);
    const ChelaBackend backend{chela, ssm, kernels->linear()};  // states are the host's
    const PlacedChelaWeights weights(p.weights, memory);
    const std::size_t weight_bytes = memory.copied_in_bytes();
    expect(transport, weight_bytes == 820 * sizeof(float));
    const auto wanted = run_chela(p, {0, p.seq_len}, nullptr, 1, false, transport).y;
    for (int pass = 0; pass < 2; ++pass) {
      expect(transport, run_chela(p, weights, {0, p.seq_len}, nullptr, 1, false, transport, backend).y == wanted);
    }
    expect(transport, memory.copied_in_bytes() == weight_bytes);
  });
  SUCCEED();
}

TEST_CASE("a reproducible CHELA block gives the same bits for any number of ranks") {
  for (const ChelaProblem& p : problems()) {
    std::vector<double> one;
    run_ranks(1, [&](Transport& transport) { one = run_chela(p, {0, p.seq_len}, nullptr, 64, true, transport).y; });
    const auto has_same_bits = [&](Transport& transport) {
      expect(transport, run_chela(p, {0, p.seq_len}, nullptr, 64, true, transport).y == one);
    };
    for_each_world(has_same_bits);
    run_ranks(5, has_same_bits);
  }
  SUCCEED();
}

TEST_CASE("a sequence in three jobs gives what one job gives") {
  for (const ChelaProblem& p : problems()) {
    if (p.seq_len < 3) continue;
    const auto wanted = p.exact();
    const std::int64_t row = p.weights.shape.channels;
    for_each_world([&](Transport& transport) {
      const std::int64_t cuts[] = {0, p.seq_len / 3, p.seq_len / 3 + 1, p.seq_len};
      std::vector<double> y(wanted.size());
      ChelaKept kept;
      for (std::size_t job = 0; job < 3; ++job) {
        const TokenRun run{cuts[job], cuts[job + 1]};
        const ChelaRun part = run_chela(p, run, job == 0 ? nullptr : &kept, 1, false, transport);
        for (std::int64_t b = 0; b < p.batch; ++b) {
          std::copy_n(part.y.begin() + b * run.size() * row, run.size() * row,
                      y.begin() + (b * p.seq_len + run.begin) * row);
        }
        kept = part.kept;
      }
      expect(transport, is_close(y, wanted));
    });
  }
  SUCCEED();
}
