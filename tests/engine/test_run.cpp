// The whole job, file to file: compiled once with ranks as threads and once under mpirun.

#include "engine/run.hpp"

#include <cmath>
#include <filesystem>
#include <string>

#include "comm/local_transport.hpp"
#include "io/activation_file.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/engine/access.hpp"
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
using ringscan::test::read_output;
using ringscan::test::verifies;
using ringscan::test::write_input;

namespace {

AttentionProblem make_problem(std::int64_t seq_len, ElementType type, std::uint32_t seed) {
  AttentionProblem problem;
  problem.seq_len = seq_len;
  problem.num_heads = 4;
  problem.num_kv_heads = 2;
  problem.head_dim = 16;
  problem.v_dim = 24;
  problem.type = type;
  problem.seed = seed;
  problem.fill();
  return problem;
}

RunConfig make_config(const std::string& input, const std::string& output) {
  RunConfig config;
  config.input = input;
  config.output = output;
  config.output_dtype = ElementType::kFloat32;
  config.want_lse = config.want_remainder = true;
  config.assignments = {{SoftmaxParams{}, {0, 2}}, {StickBreakingParams{}, {1, 3}}};
  return config;
}

}  // namespace

TEST_CASE("a hybrid job over several layers, file to file, equals the oracle") {
  const std::vector<AttentionProblem> layers{make_problem(203, ElementType::kBfloat16, 1),
                                             make_problem(203, ElementType::kBfloat16, 2),
                                             make_problem(203, ElementType::kBfloat16, 3)};
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    write_input(folder.file("in.h5"), layers, transport);
    for (const auto layout : {std::optional<LayoutKind>(), std::optional(LayoutKind::kZigzag)}) {
      RunConfig config = make_config(folder.file("in.h5"), folder.file("out.h5"));
      config.layout = layout;
      config.overwrite = true;
      const RunReport report = run(config, make_context(transport));
      expect(transport, report.finished);
      expect(transport, report.plan.overlaps_io == transport.supports_threads());
      expect(transport, report.not_collective == 0);
      expect(transport, report.peak_bytes <= report.plan.memory.total());
      expect(transport, report.stats.pairs > 0);
      expect(transport, verifies(config.input, config.output, transport));
      expect(transport, folder.files() == 2);  // nothing temporary is left
    }
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("cog and sparse heads, file to file, equal the oracle, kept mass too") {
  const std::vector<AttentionProblem> layers{make_problem(203, ElementType::kFloat32, 11)};
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    write_input(folder.file("in.h5"), layers, transport);
    for (const bool reproducible : {false, true}) {
      RunConfig config = make_config(folder.file("in.h5"), folder.file("out.h5"));
      config.reproducible = reproducible;
      config.overwrite = true;
      config.want_kept_mass = true;
      SparseParams window;
      window.select = SparseSelect::kWindow;
      config.assignments = {{CogParams{}, {0}}, {SparseParams{}, {1}}, {StickBreakingParams{}, {3}}, {window, {2}}};
      const RunReport report = run(config, make_context(transport));
      expect(transport, report.peak_bytes <= report.plan.memory.total());
      expect(transport, report.kept_mass.rows == 2 * 203 * report.plan.layers[0].batch);
      expect(transport, report.kept_mass.min > 0.0 && report.kept_mass.min < 1.0);
      expect(transport, report.kept_mass.error_bound > 0.0);
      expect(transport, report.computed_flops <= report.plan.flops() * (1.0 + 1e-12));
    }
    // A file's configuration names each mechanism once.
    RunConfig config = make_config(folder.file("in.h5"), folder.file("checked.h5"));
    config.want_kept_mass = true;
    config.assignments = {{CogParams{}, {0}}, {SparseParams{}, {1, 2}}, {StickBreakingParams{}, {3}}};
    run(config, make_context(transport));
    expect(transport, verifies(config.input, config.output, transport));
    const auto mass = read_output(config.output, "0", "kept_mass", transport);
    for (std::size_t i = 0; i < mass.size(); ++i) expect(transport, std::isnan(mass[i]) == (i % 4 == 0 || i % 4 == 3));
  });
  SUCCEED();
}

TEST_CASE("every element type is read and written") {
  for (const ElementType type :
       {ElementType::kFloat64, ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16}) {
    const std::vector<AttentionProblem> layers{make_problem(65, type, 4)};
    for_each_world([&](Transport& transport) {
      const Folder folder(transport);
      write_input(folder.file("in.h5"), layers, transport);
      RunConfig config = make_config(folder.file("in.h5"), folder.file("out.h5"));
      config.output_dtype.reset();
      const RunReport report = run(config, make_context(transport));
      expect(transport, report.plan.layers[0].o_type == type);
      expect(transport, report.peak_bytes <= report.plan.memory.total());
      expect(transport, verifies(config.input, config.output, transport));
    });
  }
  SUCCEED();
}

TEST_CASE("a memory bound is kept, and changes no result") {
  const std::vector<AttentionProblem> layers{make_problem(509, ElementType::kFloat32, 5),
                                             make_problem(509, ElementType::kFloat32, 6)};
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    write_input(folder.file("in.h5"), layers, transport);
    RunConfig config = make_config(folder.file("in.h5"), folder.file("roomy.h5"));
    const RunReport roomy = run(config, make_context(transport));
    const auto expected = read_output(config.output, "1", "o", transport);
    std::size_t bound = roomy.plan.memory.total();
    for (int tighter = 0; tighter < 12; ++tighter) {
      bound -= bound / 8;
      config.memory_bytes = bound;
      config.output = folder.file("tight" + std::to_string(tighter) + ".h5");
      try {
        const RunReport report = run(config, make_context(transport));
        expect(transport, report.peak_bytes <= bound);
        expect(transport, read_output(config.output, "1", "o", transport) == expected);
      } catch (const Error& error) {
        expect(transport, error.code() == ExitCode::kBadInput && error.is_collective());
        expect(transport, tighter >= 2);
        expect(transport, !std::filesystem::exists(config.output));
        break;
      }
    }
  });
  SUCCEED();
}

TEST_CASE("reproducible: the same file content for any number of ranks") {
  const std::vector<AttentionProblem> layers{make_problem(777, ElementType::kFloat32, 7)};
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    write_input(folder.file("in.h5"), layers, transport);
    RunConfig config = make_config(folder.file("in.h5"), folder.file("out.h5"));
    config.reproducible = true;
    run(config, make_context(transport));
    const auto o = read_output(config.output, "0", "o", transport);
    // The same job on one thread of this process, whatever the world.
    if (transport.rank() == 0) {
      run_ranks(1, [&](Transport& solo) {
        config.output = folder.file("solo.h5");
        RunContext context;
        context.transport = &solo;
        context.make_access = [](Transport& group) { return make_shared_file_access(group); };
        run(config, context);
        const auto access = make_shared_file_access(solo);
        ActivationReader reader(*access, config.output);
        expect(transport, reader.read_whole(*reader.find("0", "o")) == o);
      });
    }
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("a NaN in the input ends the job on all ranks and leaves no output") {
  std::vector<AttentionProblem> layers{make_problem(100, ElementType::kFloat32, 8),
                                       make_problem(100, ElementType::kFloat32, 9)};
  layers[1].k[500] = std::numeric_limits<float>::quiet_NaN();
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    write_input(folder.file("in.h5"), layers, transport);
    const RunConfig config = make_config(folder.file("in.h5"), folder.file("out.h5"));
    bool refused = false;
    try {
      run(config, make_context(transport));
    } catch (const Error& error) {
      refused = error.code() == ExitCode::kBadInput && error.is_collective() &&
                std::string(error.what()).find("/layers/1/k") != std::string::npos;
    }
    expect(transport, refused);
    transport.barrier();
    expect(transport, folder.files() == 1);
    transport.barrier();
    RunConfig allowed = config;
    allowed.allow_nonfinite = true;
    expect(transport, run(allowed, make_context(transport)).finished);
  });
  SUCCEED();
}

TEST_CASE("a real sample gives the outputs that its model expects") {
  const std::string sample = RINGSCAN_TEST_DATA "/real_layer1.h5";
  for_each_world([&](Transport& transport) {
    const auto expected = read_output(sample, "1", "o", transport);
    for (const auto layout : {LayoutKind::kContiguous, LayoutKind::kZigzag}) {
      const Folder folder(transport);
      RunConfig config = make_config(sample, folder.file("out.h5"));
      config.layout = layout;
      config.assignments = {{SoftmaxParams{}, {0, 1}}, {StickBreakingParams{}, {2, 3}}};
      run(config, make_context(transport));
      // The expected output is numpy's in float32, itself within 1e-6 of max|v| (4.6 to 7.1).
      expect(transport, max_abs_difference(read_output(config.output, "1", "o", transport), expected) <= 5e-5);
      expect(transport, verifies(config.input, config.output, transport));
    }
  });
  SUCCEED();
}

TEST_CASE("a dry run plans and makes nothing") {
  const std::vector<AttentionProblem> layers{make_problem(64, ElementType::kFloat32, 10)};
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    write_input(folder.file("in.h5"), layers, transport);
    RunConfig config = make_config(folder.file("in.h5"), folder.file("out.h5"));
    config.dry_run = true;
    RunContext context = make_context(transport);
    bool has_started = false;
    context.on_start = [&](const RunReport&) { has_started = true; };
    const RunReport report = run(config, context);
    expect(transport, !report.finished && !has_started);
    expect(transport, folder.files() == 1);
    expect(transport, to_json(report).find("\"flops\"") != std::string::npos);
    expect(transport, !describe_start(report).empty());
    expect(transport, summarize(report).empty());
    transport.barrier();
  });
  SUCCEED();
}
