// Jobs that are stopped and resumed: compiled once with ranks as threads and once under mpirun.

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/run.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/engine/block_file.hpp"
#include "tests/engine/job.hpp"
#include "tests/engine/problem_file.hpp"
#include "tests/support/attention_problem.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using namespace ringscan::testing;
using ringscan::test::expect;
using ringscan::test::Folder;
using ringscan::test::for_each_world;
using ringscan::test::make_access;
using ringscan::test::make_context;
using ringscan::test::mentions;
using ringscan::test::read_output;
using ringscan::test::refusal;
using ringscan::test::verifies;

namespace {

AttentionProblem make_problem(std::uint32_t seed) {
  AttentionProblem problem;
  problem.batch = 2;
  problem.seq_len = 307;
  problem.num_heads = 8;
  problem.num_kv_heads = 4;
  problem.head_dim = 16;
  problem.v_dim = 24;
  problem.type = ElementType::kFloat32;
  problem.seed = seed;
  problem.fill();
  return problem;
}

/// Two layers of five mechanisms, in both layouts, a KV head at a time.
RunConfig make_hybrid(const Folder& folder, const std::string& output) {
  RunConfig config;
  config.input = folder.file("in.h5");
  config.output = folder.file(output);
  config.want_lse = config.want_remainder = config.want_state = true;
  config.kv_heads_at_once = 1;
  config.assignments = {{SoftmaxParams{}, {0, 5}},
                        {StickBreakingParams{}, {1, 2}},
                        {LinearParams{Decay::kHead, FeatureMap::kElu1, Normalizer::kZ}, {3, 4, 7}},
                        {CogParams{}, {6}}};
  config.linear_head_decay = {-0.1, -0.01, 0.0};
  return config;
}

/// A run that is asked to stop when it looks for the `nth` time, on the last rank alone.
RunReport run_until(const RunConfig& config, int nth, Transport& transport) {
  RunContext context = make_context(transport);
  int looked = 0;
  context.should_stop = [&looked, nth, &transport] {
    return ++looked >= nth && transport.rank() == transport.world_size() - 1;
  };
  int started = 0;
  std::size_t found = 0;
  context.on_start = [&](const RunReport& begun) {
    expect(transport, looked == 0 && !begun.finished && !describe_start(begun).empty());
    found = begun.heads_found + begun.blocks_found;
    ++started;
  };
  const RunReport report = run(config, context);
  expect(transport, started == (report.was_complete ? 0 : 1));
  expect(transport, report.was_complete || found == report.heads_found + report.blocks_found);
  return report;
}

bool has_progress(const RunConfig& config) {
  return std::filesystem::exists(config.output + ".ringscan-progress");
}
bool has_partial(const RunConfig& config) {
  return std::filesystem::exists(config.output + ".ringscan-partial");
}

/// Every dataset that `a` has is in `b`, bit for bit where it is no NaN.
void expect_same(const std::string& a, const std::string& b, Transport& transport) {
  const auto access = make_access(transport);
  ActivationReader one(*access, a), other(*access, b);
  const std::vector<DatasetInfo> datasets = one.datasets();
  expect(transport, datasets.size() == other.datasets().size() && !datasets.empty());
  for (const DatasetInfo& dataset : datasets) {
    const std::vector<double> wanted = one.read_whole(dataset), found = other.read_whole(dataset);
    expect(transport, wanted.size() == found.size());
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      expect(transport, wanted[i] == found[i] || (std::isnan(wanted[i]) && std::isnan(found[i])));
    }
  }
}

/// Stops after `step` looks, again and again, until the job is done; returns how often it ran.
int run_in_pieces(RunConfig config, int step, Transport& transport) {
  config.resume = true;  // the first time there is nothing, which is the beginning
  std::size_t done = 0;
  for (int runs = 1; runs < 100; ++runs) {
    const RunReport report = run_until(config, step, transport);
    expect(transport, report.heads_found + report.blocks_found == done);
    if (report.finished) return runs;
    expect(transport, report.stopped && has_partial(config) && has_progress(config));
    expect(transport, report.heads_done + report.blocks_done > done);
    done = report.heads_done + report.blocks_done;
    transport.barrier();
  }
  return 100;
}

}  // namespace

TEST_CASE("a hybrid that is stopped wherever it may be gives the bits of one that is not") {
  for_each_world([](Transport& transport) {
    const Folder folder(transport);
    test::write_input(folder.file("in.h5"), {make_problem(1), make_problem(2)}, transport);
    run(make_hybrid(folder, "whole.h5"), make_context(transport));
    for (const int step : {1, 2, 5}) {
      const RunConfig config = make_hybrid(folder, "pieces" + std::to_string(step) + ".h5");
      const int runs = run_in_pieces(config, step, transport);
      expect(transport, step > 1 ? runs > 1 && runs < 100 : runs >= 10 && runs < 100);
      expect(transport, !has_partial(config) && !has_progress(config));
      expect_same(folder.file("whole.h5"), config.output, transport);
    }
    expect(transport, verifies(folder.file("in.h5"), folder.file("pieces1.h5"), transport));
  });
  SUCCEED();
}

TEST_CASE("memory for a few heads at a time: what is written is kept") {
  for_each_world([](Transport& transport) {
    const Folder folder(transport);
    test::write_input(folder.file("in.h5"), {make_problem(3)}, transport);
    RunConfig config = make_hybrid(folder, "whole.h5");
    run(config, make_context(transport));
    config.output = folder.file("pieces.h5");
    config.memory_bytes = 1'500'000;
    expect(transport, run_in_pieces(config, 2, transport) > 1);
    expect_same(folder.file("whole.h5"), config.output, transport);
  });
  SUCCEED();
}

TEST_CASE("blocks that are complete are not computed again") {
  for_each_world([](Transport& transport) {
    const Folder folder(transport);
    FileMaker maker(folder.file("in.h5"), transport);
    maker.add_heads(2, 67);
    maker.add(make_ssm(67, 12), {});
    const MambaProblem mamba = make_mamba_problem(67, {10, 20, 4, 2, 6, 4}, 2);
    maker.add(mamba, {});
    maker.finish();
    RunConfig config;
    config.input = folder.file("in.h5");
    config.output = folder.file("whole.h5");
    config.want_state = true;
    config.assignments = {{SoftmaxParams{}, {1}}};
    config.blocks = {{SsmParams{}, {0, 3}}, {MambaParams{}, {2}}};
    run(config, make_context(transport));
    config.output = folder.file("pieces.h5");
    expect(transport, run_in_pieces(config, 1, transport) == 3);
    expect_same(folder.file("whole.h5"), config.output, transport);
  });
  SUCCEED();
}

TEST_CASE("what --resume finds is complete, another job's, or nothing") {
  for_each_world([](Transport& transport) {
    const Folder folder(transport);
    test::write_input(folder.file("in.h5"), {make_problem(4)}, transport);
    const RunConfig config = make_hybrid(folder, "out.h5");
    expect(transport, run_until(config, 2, transport).stopped);

    RunConfig resumed = config;
    resumed.resume = true;
    RunConfig other = resumed;
    other.scale = 0.5;
    expect(transport, mentions(refusal(other, transport), "resume: " + config.output + " was begun with"));
    other = resumed;
    other.want_lse = false;
    expect(transport, mentions(refusal(other, transport), "'outputs = remainder,state'"));
    expect(transport, has_partial(config) && has_progress(config));

    // A record that is damaged, and a partial output that is.
    const std::string record = config.output + ".ringscan-progress";
    transport.barrier();
    if (transport.rank() == 0) {
      std::filesystem::copy_file(record, record + ".kept");
      std::ofstream(record) << "{\"version\": 1";
    }
    transport.barrier();
    expect(transport, mentions(refusal(resumed, transport), "its record of progress is damaged"));
    transport.barrier();
    if (transport.rank() == 0) std::filesystem::rename(record + ".kept", record);
    transport.barrier();

    expect(transport, run(resumed, make_context(transport)).finished);
    expect(transport, run(resumed, make_context(transport)).was_complete);
    expect(transport, folder.files() == 2);

    // Without --resume a stopped job's rest is replaced, and its record does not outlive it.
    RunConfig again = make_hybrid(folder, "again.h5");
    expect(transport, run_until(again, 2, transport).stopped);
    expect(transport, run(again, make_context(transport)).heads_found == 0);
    expect(transport, folder.files() == 3);
    expect_same(config.output, again.output, transport);
  });
  SUCCEED();
}

TEST_CASE("an input that has changed meanwhile is refused") {
  for_each_world([](Transport& transport) {
    const Folder folder(transport);
    test::write_input(folder.file("in.h5"), {make_problem(5)}, transport);
    RunConfig config = make_hybrid(folder, "out.h5");
    expect(transport, run_until(config, 1, transport).stopped);
    transport.barrier();
    if (transport.rank() == 0) {
      std::filesystem::last_write_time(config.input,
                                       std::filesystem::last_write_time(config.input) + std::chrono::seconds(1));
    }
    transport.barrier();
    config.resume = true;
    expect(transport, mentions(refusal(config, transport), "in.h5: "));
  });
  SUCCEED();
}
