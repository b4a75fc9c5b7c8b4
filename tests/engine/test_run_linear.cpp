// Linear heads, file to file: compiled once with ranks as threads and once under mpirun.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "comm/local_transport.hpp"
#include "engine/run.hpp"
#include "io/activation_file.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/engine/access.hpp"
#include "tests/engine/job.hpp"
#include "tests/io/foreign_file.hpp"
#include "tests/support/attention_problem.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/linear_problem.hpp"

using namespace ringscan;
using namespace ringscan::testing;
using ringscan::test::expect;
using ringscan::test::Folder;
using ringscan::test::for_each_world;
using ringscan::test::make_access;
using ringscan::test::make_context;

namespace {

LinearProblem make_problem(std::int64_t seq_len, ElementType type = ElementType::kFloat32) {
  LinearProblem problem;
  problem.batch = 2;
  problem.seq_len = seq_len;
  problem.num_heads = 4;
  problem.num_kv_heads = 2;
  problem.head_dim = 12;
  problem.v_dim = 20;
  problem.type = type;
  problem.decay = 0.05;
  problem.fill();
  return problem;
}

/// Collective. Layers "0" and "1" hold the tokens [part) of the problem; log_decay has the columns of `decay_heads`.
void write_input(const std::string& path, const LinearProblem& problem, const TokenRun& part,
                 const std::vector<int>& decay_heads, Transport& transport) {
  const auto access = make_access(transport);
  ActivationWriter writer(*access, path, true);
  const SequenceLayout layout(LayoutKind::kContiguous, part.size(), transport.world_size(), 1);
  const TokenRun mine = layout.chunks(transport.rank())[0].run;
  const auto write = [&](const std::string& layer, const char* name, const std::vector<float>& whole,
                         const std::vector<int>& heads, std::int64_t all_heads, std::int64_t dim, ElementType type) {
    std::vector<std::int64_t> shape{problem.batch, part.size(), static_cast<std::int64_t>(heads.size())};
    if (dim > 0) shape.push_back(dim);
    const DatasetInfo info = writer.create(layer, name, type, shape);
    SlabSelection selection;
    if (!mine.empty()) selection.tokens = {mine};
    std::vector<float> values;
    const std::int64_t width = std::max<std::int64_t>(1, dim);
    for (std::int64_t b = 0; b < problem.batch; ++b) {
      for (std::int64_t token = part.begin + mine.begin; token < part.begin + mine.end; ++token) {
        for (const int head : heads) {
          const auto first = whole.begin() + ((b * problem.seq_len + token) * all_heads + head) * width;
          values.insert(values.end(), first, first + width);
        }
      }
    }
    for (int column = 0; column < static_cast<int>(heads.size()); ++column) selection.heads.push_back(column);
    std::vector<std::byte> bytes(values.size() * size_of(type));
    convert_elements(values.data(), ElementType::kFloat32, bytes.data(), type, values.size());
    writer.write_slab(info, selection, bytes.data());
  };
  for (const std::string layer : {"0", "1"}) {
    write(layer, "q", problem.q, {0, 1, 2, 3}, 4, problem.head_dim, problem.type);
    write(layer, "k", problem.k, {0, 1}, 2, problem.head_dim, problem.type);
    write(layer, "v", problem.v, {0, 1}, 2, problem.v_dim, problem.type);
    write(layer, "log_decay", problem.log_decay, decay_heads, 4, 0, ElementType::kFloat32);
  }
  writer.finish();
}

RunConfig make_config(const std::string& input, const std::string& output, const LinearParams& params) {
  RunConfig config;
  config.input = input;
  config.output = output;
  config.output_dtype = ElementType::kFloat32;
  config.overwrite = true;
  config.want_state = true;
  config.assignments = {{params, {}}};
  return config;
}

VerifyReport verify_all(const RunConfig& config, Transport& transport) {
  return test::verify_all(config.input, config.output, transport);
}

bool verifies(const RunConfig& config, Transport& transport) {
  return test::verifies(config.input, config.output, transport);
}

std::vector<double> read_output(const std::string& path, const std::string& dataset, Transport& transport) {
  return test::read_output(path, "1", dataset, transport);
}

const LinearParams kToken{Decay::kToken, FeatureMap::kIdentity, Normalizer::kNone};
const LinearParams kNormalised{Decay::kToken, FeatureMap::kElu1, Normalizer::kZ};

}  // namespace

TEST_CASE("linear heads, file to file, equal the oracle, alone and in a hybrid") {
  const LinearProblem problem = make_problem(203, ElementType::kBfloat16);
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    write_input(folder.file("in.h5"), problem, {0, 203}, {0, 1, 2, 3}, transport);
    RunConfig config = make_config(folder.file("in.h5"), folder.file("out.h5"), kToken);
    RunReport report = run(config, make_context(transport));
    expect(transport, report.peak_bytes <= report.plan.memory.total());
    expect(transport, report.not_collective == 0);
    expect(transport, std::abs(report.computed_flops / report.plan.flops() - 1.0) < 1e-9);
    expect(transport, verifies(config, transport));

    config.assignments = {{SoftmaxParams{}, {0}}, {StickBreakingParams{}, {2}}, {kNormalised, {1, 3}}};
    config.linear_scale = 0.7;
    config.layout = LayoutKind::kZigzag;
    report = run(config, make_context(transport));
    expect(transport, report.peak_bytes <= report.plan.memory.total());
    expect(transport, verifies(config, transport));

    // Columns for the linear heads alone; a constant decay needs none.
    write_input(folder.file("in.h5"), problem, {0, 203}, {1, 3}, transport);
    const std::vector<double> with_all = read_output(config.output, "o", transport);
    run(config, make_context(transport));
    expect(transport, read_output(config.output, "o", transport) == with_all);
    config.assignments.back().mechanism = LinearParams{Decay::kHead, FeatureMap::kIdentity, Normalizer::kNone};
    config.linear_head_decay = {-0.01, -2.0};
    run(config, make_context(transport));
    expect(transport, verifies(config, transport));
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("verify finds a wrong output of a linear head") {
  const LinearProblem problem = make_problem(120);
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    write_input(folder.file("in.h5"), problem, {0, 120}, {0, 1, 2, 3}, transport);
    const RunConfig config = make_config(folder.file("in.h5"), folder.file("out.h5"), kToken);
    run(config, make_context(transport));
    LinearProblem other = problem;
    other.log_decay[100] -= 0.5f;
    write_input(folder.file("in.h5"), other, {0, 120}, {0, 1, 2, 3}, transport);
    expect(transport, !verify_all(config, transport).passed());
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("verify finds one wrong element of a state") {
  const LinearProblem problem = make_problem(120);
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    write_input(folder.file("in.h5"), problem, {0, 120}, {0, 1, 2, 3}, transport);
    const RunConfig config = make_config(folder.file("in.h5"), folder.file("out.h5"), kNormalised);
    for (const char* dataset : {"/layers/1/state/S", "/layers/1/state/n_vector"}) {
      run(config, make_context(transport));
      expect(transport, verifies(config, transport));
      transport.barrier();
      if (transport.rank() == 0) {
        // The upper bits of a float64's fraction: it stays finite, and is off by some hundredths.
        const auto [begin, bytes] = test::find_data(config.output, dataset);
        test::spoil(config.output, begin + bytes - 3, 1);
      }
      transport.barrier();
      expect(transport, !verify_all(config, transport).passed());
    }
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("a sequence cut into two jobs gives what one job gives") {
  const LinearProblem problem = make_problem(300);
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    for (const bool reproducible : {false, true}) {
      // On the chunk grid a reproducible cut gives the very bits.
      const std::int64_t cut = reproducible ? 128 : 137;
      const auto job = [&](const char* name, const TokenRun& part, const std::string& initial) {
        write_input(folder.file("in.h5"), problem, part, {0, 1, 2, 3}, transport);
        RunConfig config = make_config(folder.file("in.h5"), folder.file(name), kNormalised);
        config.reproducible = reproducible;
        config.initial_state = initial;
        run(config, make_context(transport));
        expect(transport, verifies(config, transport));
        return read_output(config.output, "o", transport);
      };
      const std::vector<double> whole = job("whole.h5", {0, 300}, "");
      const std::vector<double> first = job("first.h5", {0, cut}, "");
      const std::vector<double> second = job("second.h5", {cut, 300}, folder.file("first.h5"));
      const std::vector<double> s_whole = read_output(folder.file("whole.h5"), "state/S", transport);
      const std::vector<double> s_parts = read_output(folder.file("second.h5"), "state/S", transport);
      double worst = 0.0;
      const std::int64_t row = 4 * 20;
      for (std::int64_t b = 0; b < 2; ++b) {
        for (std::int64_t i = 0; i < 300 * row; ++i) {
          const double found = i < cut * row ? first[static_cast<std::size_t>(b * cut * row + i)]
                                             : second[static_cast<std::size_t>(b * (300 - cut) * row + i - cut * row)];
          const double error = std::abs(found - whole[static_cast<std::size_t>(b * 300 * row + i)]);
          if (!(error <= worst)) worst = std::isnan(error) ? HUGE_VAL : error;
        }
      }
      expect(transport, worst <= (reproducible ? 0.0 : 1e-5));
      expect(transport, max_abs_difference(s_whole, s_parts) <= (reproducible ? 0.0 : 1e-4));
    }
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("reproducible: the same file content for any number of ranks, states included") {
  const LinearProblem problem = make_problem(777);
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    write_input(folder.file("in.h5"), problem, {0, 777}, {0, 1, 2, 3}, transport);
    RunConfig config = make_config(folder.file("in.h5"), folder.file("out.h5"), kToken);
    config.reproducible = true;
    run(config, make_context(transport));
    const auto o = read_output(config.output, "o", transport);
    const auto s = read_output(config.output, "state/S", transport);
    transport.barrier();
    if (transport.rank() == 0) {
      for (const int world_size : {1, 5, 8}) {
        run_ranks(world_size, [&](Transport& local) {
          RunConfig again = config;
          again.output = folder.file("again.h5");
          RunContext context = make_context(local);
          context.make_access = [](Transport& group) { return make_shared_file_access(group); };
          run(again, context);
          const auto access = make_shared_file_access(local);
          ActivationReader reader(*access, again.output);
          expect(local, reader.read_whole(*reader.find("1", "o")) == o);
          expect(local, reader.read_whole(*reader.find("1", "state/S")) == s);
          local.barrier();
        });
      }
    }
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("a memory bound is kept by linear heads, and changes no result") {
  const LinearProblem problem = make_problem(700);
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    write_input(folder.file("in.h5"), problem, {0, 700}, {0, 1, 2, 3}, transport);
    RunConfig config = make_config(folder.file("in.h5"), folder.file("roomy.h5"), kNormalised);
    const RunReport roomy = run(config, make_context(transport));
    config.output = folder.file("tight.h5");
    config.memory_bytes = roomy.plan.memory.total() * 7 / 10;
    const RunReport tight = run(config, make_context(transport));
    expect(transport, tight.peak_bytes <= *config.memory_bytes);
    for (const char* dataset : {"o", "state/S", "state/n_vector"}) {
      expect(transport, read_output(folder.file("roomy.h5"), dataset, transport) ==
                            read_output(folder.file("tight.h5"), dataset, transport));
    }
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("what linear heads refuse is one error of all ranks that names its place") {
  const LinearProblem problem = make_problem(100);
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    const auto refused = [&](const RunConfig& config, const std::string& part) {
      try {
        run(config, make_context(transport));
      } catch (const Error& error) {
        const bool matches = error.code() == ExitCode::kBadInput && error.is_collective() &&
                             std::string(error.what()).find(part) != std::string::npos;
        if (!matches && transport.rank() == 0) std::fprintf(stderr, "%s\n", error.what());
        expect(transport, matches);
        expect(transport, !std::filesystem::exists(config.output));
        return;
      }
      expect(transport, false);
    };
    const RunConfig config = make_config(folder.file("in.h5"), folder.file("out.h5"), kToken);
    LinearProblem growing = problem;
    growing.log_decay[static_cast<std::size_t>((1 * 100 + 37) * 4 + 2)] = 0.25f;
    write_input(folder.file("in.h5"), growing, {0, 100}, {0, 1, 2, 3}, transport);
    refused(config, "/layers/0/log_decay: element [1, 37, 2] is 0.25");

    write_input(folder.file("in.h5"), problem, {0, 100}, {0, 1, 2}, transport);
    refused(config, "/layers/0/log_decay: 3 columns found, 4 (all heads)");

    RunConfig decays = make_config(folder.file("in.h5"), folder.file("out.h5"), {Decay::kHead, {}, {}});
    decays.linear_head_decay = {-1.0, -1.0};
    refused(decays, "linear.head-decay: found 2 numbers, want 4");

    RunConfig stateless = make_config(folder.file("in.h5"), folder.file("out.h5"), {Decay::kNone, {}, {}});
    stateless.initial_state = folder.file("in.h5");
    refused(stateless, "/layers/0/state/S is missing");
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("linear heads of a real sample give the outputs that its model expects") {
  const std::string sample = RINGSCAN_TEST_DATA "/real_layer1_linear.h5";
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    const auto expected = read_output(sample, "o", transport);
    for (const bool reproducible : {false, true}) {
      RunConfig config = make_config(sample, folder.file("out.h5"), kToken);
      config.reproducible = reproducible;
      run(config, make_context(transport));
      const auto found = read_output(config.output, "o", transport);
      // Outputs reach 15,000 where |v| is 23 at most: errors are relative to a row's largest output.
      expect(transport, found.size() == expected.size());
      for (std::size_t row = 0; row < expected.size() / 64; ++row) {
        double scale = 22.0, error = 0.0;
        for (std::size_t d = row * 64; d < row * 64 + 64; ++d) scale = std::max(scale, std::abs(expected[d]));
        for (std::size_t d = row * 64; d < row * 64 + 64; ++d)
          error = std::max(error, std::abs(found[d] - expected[d]));
        expect(transport, error <= 2e-6 * scale);
      }
    }
    transport.barrier();
  });
  SUCCEED();
}
