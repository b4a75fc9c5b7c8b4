// Selective scan and Mamba block, file to file: compiled once with ranks as threads and once under mpirun.

#include <filesystem>
#include <string>

#include "comm/local_transport.hpp"
#include "engine/run.hpp"
#include "io/activation_file.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/engine/access.hpp"
#include "tests/engine/block_file.hpp"
#include "tests/engine/job.hpp"
#include "tests/io/foreign_file.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using namespace ringscan::testing;
using ringscan::test::expect;
using ringscan::test::Folder;
using ringscan::test::for_each_world;
using ringscan::test::make_access;
using ringscan::test::make_context;
using ringscan::test::mentions;
using ringscan::test::refusal;

namespace {

RunConfig make_config(const Folder& folder, const BlockMechanism& mechanism, const std::string& output = "out.h5") {
  RunConfig config;
  config.input = folder.file("in.h5");
  config.output = folder.file(output);
  config.blocks = {{mechanism, {}}};
  return config;
}

RunReport run_job(const RunConfig& config, Transport& transport) {
  return run(config, make_context(transport));
}

bool verifies(const RunConfig& config, Transport& transport) {
  return test::verifies(config.input, config.output, transport);
}

std::vector<double> read_output(const std::string& path, const std::string& dataset, Transport& transport) {
  return test::read_output(path, "0", dataset, transport);
}

/// The second half of a job goes on from the first's state: [batch, seq, width] put together.
std::vector<double> run_in_two(const Folder& folder, const BlockMechanism& mechanism, const std::string& output,
                               std::int64_t batch, Transport& transport) {
  RunConfig first = make_config(folder, mechanism, "first-out.h5");
  first.input = folder.file("first.h5");
  first.want_state = true;
  run_job(first, transport);
  RunConfig second = make_config(folder, mechanism, "second-out.h5");
  second.input = folder.file("second.h5");
  second.initial_state = first.output;
  run_job(second, transport);
  expect(transport, verifies(second, transport));
  const auto a = read_output(first.output, output, transport);
  const auto b = read_output(second.output, output, transport);
  std::vector<double> both;
  for (std::int64_t i = 0; i < batch; ++i) {
    const auto part_a = static_cast<std::ptrdiff_t>(a.size()) / batch;
    const auto part_b = static_cast<std::ptrdiff_t>(b.size()) / batch;
    both.insert(both.end(), a.begin() + i * part_a, a.begin() + (i + 1) * part_a);
    both.insert(both.end(), b.begin() + i * part_b, b.begin() + (i + 1) * part_b);
  }
  return both;
}

}  // namespace

TEST_CASE("a selective scan, file to file, equals the oracle in every element type") {
  for (const std::int64_t seq_len : {1, 5, 203}) {
    const SsmProblem p = make_ssm(seq_len, 36);
    const SsmResult exact = exact_result(p);
    for_each_world([&](Transport& transport) {
      const Folder folder(transport);
      write_input(folder.file("in.h5"), p, transport);
      for (const bool reproducible : {false, true}) {
        RunConfig config = make_config(folder, SsmParams{});
        config.overwrite = true;
        config.reproducible = reproducible;
        const RunReport report = run_job(config, transport);
        expect(transport, report.finished && report.not_collective == 0);
        expect(transport, report.peak_bytes <= report.plan.memory.total());
        expect(transport, relative_error(read_output(config.output, "ssm/y", transport), exact.y) <= 1e-5);
        expect(transport, verifies(config, transport));
      }
    });
  }
  const SsmProblem p = make_ssm(67, 8);
  for (const ElementType type : {ElementType::kFloat64, ElementType::kFloat16, ElementType::kBfloat16}) {
    for_each_world([&](Transport& transport) {
      const Folder folder(transport);
      FileMaker maker(folder.file("in.h5"), transport);
      maker.add(p, {}, type);
      maker.finish();
      const RunConfig config = make_config(folder, SsmParams{});
      const RunReport report = run_job(config, transport);
      expect(transport, report.plan.blocks[0].shape.output_type == type);
      expect(transport, report.peak_bytes <= report.plan.memory.total());
      expect(transport, verifies(config, transport));
    });
  }
  SUCCEED();
}

TEST_CASE("a Mamba block, file to file, equals the oracle") {
  for (const std::int64_t seq_len : {2, 130}) {
    const MambaProblem p = make_mamba_problem(seq_len, {10, 20, 4, 2, 7, 4}, 2);
    const std::vector<double> exact = exact_result(p);
    for_each_world([&](Transport& transport) {
      const Folder folder(transport);
      FileMaker maker(folder.file("in.h5"), transport);
      maker.add(p, {}, seq_len > 100);
      maker.finish();
      const RunConfig config = make_config(folder, MambaParams{});
      const RunReport report = run_job(config, transport);
      expect(transport, report.peak_bytes <= report.plan.memory.total());
      expect(transport, relative_error(read_output(config.output, "mamba/y", transport), exact) <= 1e-5);
      expect(transport, verifies(config, transport));
    });
  }
  SUCCEED();
}

TEST_CASE("in a hybrid the output lands in its heads' slots of o") {
  SsmProblem ssm = make_ssm(101, 12);
  const MambaProblem mamba = make_mamba_problem(101, {10, 20, 4, 2, 6, 4}, 2);
  const std::vector<double> exact_ssm = exact_result(ssm).y;
  const std::vector<double> exact_mamba = exact_result(mamba);
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    FileMaker maker(folder.file("in.h5"), transport);
    maker.add(ssm, {});
    maker.add(mamba, {});
    maker.add_heads(2, 101);
    maker.finish();
    RunConfig config = make_config(folder, SsmParams{});
    config.assignments = {{SoftmaxParams{}, {1}}};
    config.blocks = {{SsmParams{}, {0, 3}}, {MambaParams{}, {2}}};
    run_job(config, transport);
    const auto access = make_access(transport);
    ActivationReader reader(*access, config.output);
    const std::vector<double> o = reader.read_whole(reader.require("0", "o", {2, 101, 4, 6}));
    std::vector<double> found_ssm, found_mamba;
    for (std::size_t row = 0; row < 2 * 101; ++row) {
      const auto head = [&](std::size_t index) {
        return o.begin() + static_cast<std::ptrdiff_t>((row * 4 + index) * 6);
      };
      found_ssm.insert(found_ssm.end(), head(0), head(1));
      found_ssm.insert(found_ssm.end(), head(3), head(4));
      found_mamba.insert(found_mamba.end(), head(2), head(3));
    }
    expect(transport, relative_error(found_ssm, exact_ssm) <= 1e-5);
    expect(transport, relative_error(found_mamba, exact_mamba) <= 1e-5);
    expect(transport, verifies(config, transport));
  });
  SUCCEED();
}

TEST_CASE("a memory bound is kept by blocks of channels") {
  const SsmProblem ssm = make_ssm(400, 128);
  const MambaProblem mamba = make_mamba_problem(900, {8, 96, 4, 2, 8, 4});
  for_each_world([&](Transport& transport) {
    for (const bool is_ssm : {true, false}) {
      const Folder folder(transport);
      if (is_ssm) {
        write_input(folder.file("in.h5"), ssm, transport);
      } else {
        write_input(folder.file("in.h5"), mamba, transport);
      }
      const BlockMechanism mechanism = is_ssm ? BlockMechanism(SsmParams{}) : BlockMechanism(MambaParams{});
      RunConfig config = make_config(folder, mechanism);
      const RunReport roomy = run_job(config, transport);
      config.memory_bytes = roomy.plan.memory.total() * 2 / 3;
      config.output = folder.file("tight.h5");
      const RunReport tight = run_job(config, transport);
      expect(transport, tight.plan.blocks[0].block_channels < roomy.plan.blocks[0].block_channels);
      expect(transport, tight.peak_bytes <= *config.memory_bytes);
      expect(transport, verifies(config, transport));
      config.output = folder.file("none.h5");
      if (is_ssm) {  // Found when the first channels have been written.
        SsmProblem late = ssm;
        late.u.back() = INFINITY;
        config.input = folder.file("late.h5");
        write_input(config.input, late, transport);
        expect(transport, mentions(refusal(config, transport), "/layers/0/ssm/u"));
      }
      config.input = folder.file("in.h5");
      config.memory_bytes = 1000;
      expect(transport, mentions(refusal(config, transport), "--memory"));
    }
  });
  SUCCEED();
}

TEST_CASE("reproducible blocks: the same file content for any number of ranks") {
  const SsmProblem ssm = make_ssm(213, 70);
  const MambaProblem mamba = make_mamba_problem(530, {8, 300, 3, 2, 8, 4});
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    FileMaker maker(folder.file("in.h5"), transport);
    maker.add(ssm, {});
    maker.add(mamba, {});
    maker.finish();
    for (const bool is_ssm : {true, false}) {
      const BlockMechanism mechanism = is_ssm ? BlockMechanism(SsmParams{}) : BlockMechanism(MambaParams{});
      const char* dataset = is_ssm ? "ssm/y" : "mamba/y";
      RunConfig config = make_config(folder, mechanism, is_ssm ? "ssm.h5" : "mamba.h5");
      config.reproducible = true;
      run_job(config, transport);
      const auto y = read_output(config.output, dataset, transport);
      if (transport.rank() == 0) {
        run_ranks(1, [&](Transport& solo) {
          config.output = folder.file(is_ssm ? "ssm-solo.h5" : "mamba-solo.h5");
          RunContext context = make_context(solo);
          context.make_access = [](Transport& group) { return make_shared_file_access(group); };
          run(config, context);
          const auto access = make_shared_file_access(solo);
          ActivationReader reader(*access, config.output);
          expect(transport, reader.read_whole(*reader.find("0", dataset)) == y);
        });
      }
      transport.barrier();
    }
  });
  SUCCEED();
}

TEST_CASE("a sequence cut into two jobs gives what one gives") {
  const SsmProblem ssm = make_ssm(90, 24);
  const MambaProblem mamba = make_mamba_problem(90, {10, 20, 4, 2, 7, 4}, 2);
  const std::vector<double> exact_ssm = exact_result(ssm).y;
  const std::vector<double> exact_mamba = exact_result(mamba);
  for_each_world([&](Transport& transport) {
    for (const std::int64_t cut : {2, 55}) {
      const Folder folder(transport);
      for (const auto& [name, run] :
           {std::pair("first.h5", TokenRun{0, cut}), std::pair("second.h5", TokenRun{cut, 90})}) {
        FileMaker maker(folder.file(name), transport);
        maker.add(ssm, run);
        maker.add(mamba, run);
        maker.finish();
      }
      expect(transport, relative_error(run_in_two(folder, SsmParams{}, "ssm/y", 2, transport), exact_ssm) <= 1e-5);
      std::error_code ignored;
      if (transport.rank() == 0) {
        std::filesystem::remove(folder.file("first-out.h5"), ignored);
        std::filesystem::remove(folder.file("second-out.h5"), ignored);
      }
      transport.barrier();
      expect(transport,
             relative_error(run_in_two(folder, MambaParams{}, "mamba/y", 2, transport), exact_mamba) <= 1e-5);
    }
  });
  SUCCEED();
}

TEST_CASE("verify finds one wrong element of a block's state") {
  const SsmProblem ssm = make_ssm(90, 24);
  const MambaProblem mamba = make_mamba_problem(90, {10, 20, 4, 2, 7, 4}, 2);
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    FileMaker maker(folder.file("in.h5"), transport);
    maker.add(ssm, {});
    maker.add(mamba, {});
    maker.finish();
    for (const std::string dataset : {"ssm/h", "mamba/h", "mamba/conv"}) {
      RunConfig config =
          make_config(folder, dataset == "ssm/h" ? BlockMechanism(SsmParams{}) : BlockMechanism(MambaParams{}));
      config.overwrite = config.want_state = true;
      run_job(config, transport);
      expect(transport, verifies(config, transport));
      transport.barrier();
      if (transport.rank() == 0) {
        // The last float32 with its exponent's upper bits all ones.
        const auto [begin, bytes] = test::find_data(config.output, "/layers/0/state/" + dataset);
        test::spoil(config.output, begin + bytes - 1, 1);
      }
      transport.barrier();
      for (const DatasetCheck& check : test::verify_all(config.input, config.output, transport).checks) {
        expect(transport, check.passed() == ("state/" + dataset.substr(dataset.find('/') + 1) != check.dataset));
      }
    }
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("bad blocks get their one line") {
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    const auto refusal_of = [&](const SsmProblem& p, const char* file) {
      FileMaker maker(folder.file(file), transport);
      maker.add(p, {});
      maker.add_heads(p.batch, p.seq_len);
      maker.finish();
      RunConfig config = make_config(folder, SsmParams{});
      config.input = folder.file(file);
      return refusal(config, transport);
    };
    SsmProblem positive = make_ssm(20, 8);
    positive.a[7] = 0.5f;
    expect(transport, mentions(refusal_of(positive, "positive.h5"), "want every A under 0"));
    SsmProblem uneven = make_ssm(20, 9);
    expect(transport, mentions(refusal_of(uneven, "uneven.h5"), "the groups must divide the channels"));
    SsmProblem infinite = make_ssm(20, 8);
    infinite.u[3] = INFINITY;
    expect(transport, mentions(refusal_of(infinite, "infinite.h5"), "/layers/0/ssm/u"));
    SsmProblem good = make_ssm(20, 8);
    expect(transport, refusal_of(good, "good.h5").empty());

    RunConfig config = make_config(folder, MambaParams{}, "other.h5");
    config.input = folder.file("good.h5");
    expect(transport, mentions(refusal(config, transport), "mamba/x is missing"));
    config.blocks = {{SsmParams{}, {0, 1}}};
    config.assignments = {{SoftmaxParams{}, {2, 3}}};
    expect(transport, mentions(refusal(config, transport), "want 12"));
    config.blocks = {{SsmParams{}, {9}}};
    expect(transport, mentions(refusal(config, transport), "head 9 does not exist"));
    config = make_config(folder, SsmParams{}, "other.h5");
    config.input = folder.file("good.h5");
    config.initial_state = folder.file("out.h5");
    expect(transport, mentions(refusal(config, transport), "state/ssm/h is missing"));
    config.initial_state.clear();
    config.layout = LayoutKind::kZigzag;
    expect(transport, mentions(refusal(config, transport), "zigzag"));
    expect(transport, !std::filesystem::exists(config.output));
  });
  SUCCEED();
}
