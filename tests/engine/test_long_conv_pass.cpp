// A convolution of any width over the ranks, against the oracle: direct, by halo and by all-to-all; compiled once with
// ranks as threads and once under mpirun.

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "comm/local_transport.hpp"
#include "engine/long_conv_pass.hpp"
#include "kernels/reference/chela_oracle.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/far_blocks.hpp"
#include "tests/support/far_transport.hpp"

using namespace ringscan;
using ringscan::test::expect;
using ringscan::test::FarChela;
using ringscan::test::FarMemory;
using ringscan::test::FarTransport;
using ringscan::test::for_each_world;

namespace {

struct Problem {
  std::int64_t batch = 1;
  std::int64_t seq_len = 0;
  std::int64_t channels = 0;
  std::int64_t width = 0;
  bool has_past = false;
  std::vector<float> x;     // [batch, seq_len, channels]
  std::vector<float> past;  // [batch, width - 1, channels]
  std::vector<float> taps;  // [channels, width]

  void fill() {
    std::mt19937 generator(static_cast<std::uint32_t>(seq_len * 31 + width));
    std::normal_distribution<float> distribution;
    x.resize(static_cast<std::size_t>(batch * seq_len * channels));
    past.resize(static_cast<std::size_t>(has_past ? batch * (width - 1) * channels : 0));
    taps.resize(static_cast<std::size_t>(channels * width));
    for (auto* values : {&x, &past, &taps}) {
      for (float& value : *values) value = distribution(generator);
    }
  }
};

Problem make(std::int64_t seq_len, std::int64_t channels, std::int64_t width, bool has_past, std::int64_t batch = 1) {
  Problem p;
  p.batch = batch;
  p.seq_len = seq_len;
  p.channels = channels;
  p.width = width;
  p.has_past = has_past;
  p.fill();
  return p;
}

/// Rows `run` of a whole [batch, rows, channels].
std::vector<float> part(const std::vector<float>& whole, std::int64_t batch, std::int64_t rows, std::int64_t channels,
                        const TokenRun& run) {
  std::vector<float> own;
  for (std::int64_t b = 0; b < batch; ++b) {
    const auto first = whole.begin() + (b * rows + run.begin) * channels;
    own.insert(own.end(), first, first + run.size() * channels);
  }
  return own;
}

struct Outcome {
  std::vector<double> whole;  // on every rank
  LongConvResult result;
  std::size_t ledger_peak_bytes = 0;
};

Buffer placed(const std::vector<float>& values, MemorySpace& space) {
  Buffer there(values.size() * sizeof(float), nullptr, space);
  if (!values.empty()) space.copy_in(there.data(), values.data(), there.size_bytes());
  return there;
}

Outcome run(const Problem& p, const SequenceLayout& layout, bool reproducible, Transport& transport,
            const ChelaKernels& kernels) {
  const TokenRun own = layout.chunks(transport.rank())[0].run;
  std::vector<float> values = part(p.x, p.batch, p.seq_len, p.channels, own);
  Buffer values_there = placed(values, kernels.work_memory());
  const Buffer taps_there = placed(p.taps, kernels.work_memory());
  const TokenRun wanted = wanted_past(layout, p.width, reproducible, transport.rank());
  const std::vector<float> past =
      p.has_past ? part(p.past, p.batch, p.width - 1, p.channels, wanted) : std::vector<float>{};
  LongConvPassTask task;
  task.layout = &layout;
  task.values = dense_view(values_there.as<float>(), {p.batch, own.size(), 1, p.channels});
  task.taps = taps_there.as<float>();
  task.width = p.width;
  static constexpr float kNone = 0.0f;  // a rank without a share has a past all the same
  if (p.has_past) task.past = dense_view(past.empty() ? &kNone : past.data(), {p.batch, wanted.size(), 1, p.channels});
  task.reproducible = reproducible;
  MemoryLedger ledger;
  Outcome outcome;
  outcome.result = run_long_conv_pass(task, transport, kernels, &ledger);
  outcome.ledger_peak_bytes = ledger.peak_bytes();
  expect(transport, ledger.current_bytes() == 0);
  expect(transport, ledger.peak_bytes() <=
                        long_conv_pass_bytes(layout, p.batch, p.channels, p.width, reproducible, kernels) + 1024);
  std::copy_n(values_there.as<float>(), values.size(), values.begin());
  outcome.whole.assign(p.x.size(), 0.0);
  for (std::int64_t b = 0; b < p.batch; ++b) {
    std::copy_n(values.begin() + b * own.size() * p.channels, own.size() * p.channels,
                outcome.whole.begin() + (b * p.seq_len + own.begin) * p.channels);
  }
  transport.all_reduce(std::span<double>(outcome.whole), ReduceOp::kSum);
  return outcome;
}

Outcome run(const Problem& p, const SequenceLayout& layout, bool reproducible, Transport& transport) {
  return run(p, layout, reproducible, transport, *make_cpu_chela_kernels());
}

std::vector<double> exact(const Problem& p) {
  std::vector<double> y(p.x.size());
  for (std::int64_t b = 0; b < p.batch; ++b) {
    for (std::int64_t c = 0; c < p.channels; ++c) {
      std::vector<double> line, past;
      for (std::int64_t t = 0; t < p.seq_len; ++t) {
        line.push_back(p.x[static_cast<std::size_t>((b * p.seq_len + t) * p.channels + c)]);
      }
      for (std::int64_t t = 0; p.has_past && t < p.width - 1; ++t) {
        past.push_back(p.past[static_cast<std::size_t>((b * (p.width - 1) + t) * p.channels + c)]);
      }
      const std::vector<double> taps(p.taps.begin() + c * p.width, p.taps.begin() + (c + 1) * p.width);
      const auto out = oracle::causal_convolution(taps, past, line);
      for (std::int64_t t = 0; t < p.seq_len; ++t) {
        y[static_cast<std::size_t>((b * p.seq_len + t) * p.channels + c)] = out[static_cast<std::size_t>(t)];
      }
    }
  }
  return y;
}

bool is_close(const std::vector<double>& found, const std::vector<double>& wanted) {
  double largest = 0.0;
  for (const double value : wanted) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (!(std::abs(found[i] - wanted[i]) <= 4e-6 * largest)) return false;
  }
  return true;
}

std::vector<Problem> problems() {
  std::vector<Problem> all;
  for (const bool has_past : {false, true}) {
    for (const std::int64_t width : {1, 3, 40}) all.push_back(make(37, 5, width, has_past));  // halos beyond shards
    for (const std::int64_t width : {65, 101, 250}) all.push_back(make(101, 3, width, has_past));
    all.push_back(make(3, 2, 70, has_past));          // empty shards
    all.push_back(make(1500, 9, 80, has_past, 2));    // halo
    all.push_back(make(1500, 4, 1500, has_past, 2));  // the whole sequence
  }
  return all;
}

struct HaloProblem {
  Problem problem;
  std::int64_t tile = 1;
};

/// Convolved by halo over every number of ranks that is tested.
std::vector<HaloProblem> halo_problems() {
  std::vector<HaloProblem> all;
  for (const bool has_past : {false, true}) {
    all.push_back({make(1499, 3, 214, has_past)});  // as wide as the shortest of seven shards
    all.push_back({make(701, 5, 66, has_past, 2)});
    all.push_back({make(381, 4, 101, has_past, 2), 128});  // empty shards
    all.push_back({make(381, 1, 120, has_past), 127});
  }
  return all;
}

/// Kernels in a memory that is carried where `is_carried`, whatever the queue, against the host's own.
void check_far_halo(const HaloProblem& p, const std::vector<double>& wanted, bool has_queue, bool is_carried,
                    Transport& transport) {
  const Problem& problem = p.problem;
  const SequenceLayout layout(LayoutKind::kContiguous, problem.seq_len, transport.world_size(), p.tile);
  expect(transport, choose_long_conv(layout, problem.width, false) == LongConvMethod::kHalo);
  FarMemory memory(has_queue);
  const FarChela kernels(memory, is_carried);
  FarTransport carrier(transport, &memory);
  const Outcome found = run(problem, layout, false, is_carried ? static_cast<Transport&>(carrier) : transport, kernels);
  expect(transport, is_close(found.whole, wanted));
  expect(transport, found.whole == run(problem, layout, false, transport).whole);
  if (!is_carried) return;

  const TokenRun own = layout.chunks(transport.rank())[0].run;
  const auto bytes_of = [&](std::int64_t rows) {
    return static_cast<std::size_t>(problem.batch * rows * problem.channels) * sizeof(float);
  };
  const bool sends = !own.empty() && own.end < problem.seq_len, receives = !own.empty() && own.begin > 0;
  const std::size_t past = problem.has_past && !own.empty() && own.begin == 0 ? bytes_of(problem.width - 1) : 0;
  // What the test has copied itself comes first.
  expect(transport, memory.copied_in_bytes() == bytes_of(own.size()) + problem.taps.size() * sizeof(float) + past);
  expect(transport, memory.copied_out_bytes() == 0 && found.ledger_peak_bytes == 0);
  expect(transport, found.result.sent_bytes == (sends ? bytes_of(problem.width - 1) : 0));
  expect(transport, carrier.far_sent_bytes() == found.result.sent_bytes);
  expect(transport, carrier.sent_bytes() == found.result.sent_bytes);
  // Sending and receiving are one transfer an item, so that no rank's sending waits for its receiving.
  expect(transport, carrier.far_transfers() == (sends || receives ? problem.batch : 0));
}

}  // namespace

TEST_CASE("a convolution over the ranks equals the oracle at any width, length and number of ranks") {
  for (const Problem& p : problems()) {
    const auto wanted = exact(p);
    for_each_world([&](Transport& transport) {
      const SequenceLayout layout(LayoutKind::kContiguous, p.seq_len, transport.world_size(), 1);
      for (const bool reproducible : {false, true}) {
        expect(transport, is_close(run(p, layout, reproducible, transport).whole, wanted));
      }
    });
  }
  SUCCEED();
}

TEST_CASE("a halo goes from device to device where the transport carries that memory, and else by the host") {
  for (const HaloProblem& p : halo_problems()) {
    const auto wanted = exact(p.problem);
    for_each_world([&](Transport& transport) {
      for (const bool has_queue : {false, true}) {
        for (const bool is_carried : {false, true}) check_far_halo(p, wanted, has_queue, is_carried, transport);
      }
    });
  }
  SUCCEED();
}

TEST_CASE("what a device's queue stands still for a halo is exposed, and is not computing") {
  const Problem p = make(1500, 9, 80, false, 2);
  for_each_world([&](Transport& transport) {
    const SequenceLayout layout(LayoutKind::kContiguous, p.seq_len, transport.world_size(), 1);
    FarMemory memory(true);
    FarTransport carrier(transport, &memory);
    carrier.pretend_queue_seconds(1e6);
    const LongConvResult result = run(p, layout, false, carrier, FarChela(memory, true)).result;
    expect(transport, result.exposed_seconds >= 1e6);
    const double wall_seconds = result.exposed_seconds + result.compute_seconds;
    expect(transport, wall_seconds > 0.0 && wall_seconds < 1e5);
  });
  SUCCEED();
}

TEST_CASE("a reproducible convolution gives the same bits for any number of ranks") {
  for (const Problem& p : problems()) {
    std::vector<double> one;
    run_ranks(1, [&](Transport& transport) {
      one = run(p, SequenceLayout(LayoutKind::kContiguous, p.seq_len, 1, 1), true, transport).whole;
    });
    const auto has_same_bits = [&](Transport& transport) {
      const SequenceLayout layout(LayoutKind::kContiguous, p.seq_len, transport.world_size(), 1);
      expect(transport, run(p, layout, true, transport).whole == one);
    };
    for_each_world(has_same_bits);
    run_ranks(5, has_same_bits);
  }
  SUCCEED();
}

TEST_CASE("the cheaper way is chosen") {
  const SequenceLayout layout(LayoutKind::kContiguous, 4000, 4, 1);
  REQUIRE(choose_long_conv(layout, 64, false) == LongConvMethod::kDirect);
  REQUIRE(choose_long_conv(layout, 64, true) == LongConvMethod::kDirect);
  REQUIRE(choose_long_conv(layout, 300, false) == LongConvMethod::kHalo);
  REQUIRE(choose_long_conv(layout, 300, true) == LongConvMethod::kAllToAll);
  REQUIRE(choose_long_conv(layout, 1001, false) == LongConvMethod::kHalo);
  REQUIRE(choose_long_conv(layout, 1002, false) == LongConvMethod::kAllToAll);  // longer than a shard
  REQUIRE(choose_long_conv(layout, 4000, false) == LongConvMethod::kAllToAll);
  // Between two ranks an all-to-all there and back moves one shard.
  const SequenceLayout two(LayoutKind::kContiguous, 4000, 2, 1);
  REQUIRE(choose_long_conv(two, 2001, false) == LongConvMethod::kHalo);
}
