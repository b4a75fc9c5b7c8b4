// CHELA blocks through run() and verify(), file to file: compiled once with ranks as threads and once under mpirun.

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "comm/local_transport.hpp"
#include "engine/run.hpp"
#include "tests/engine/chela_file.hpp"
#include "tests/engine/job.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using namespace ringscan::testing;
using ringscan::test::expect;
using ringscan::test::Folder;
using ringscan::test::for_each_world;
using ringscan::test::make_context;
using ringscan::test::mentions;
using ringscan::test::read_output;
using ringscan::test::refusal;
using ringscan::test::verifies;
using ringscan::test::verify_all;

namespace {

RunConfig make_config(const Folder& folder, const ChelaProblem& p, const std::string& input,
                      const std::string& output) {
  RunConfig config;
  config.input = folder.file(input);
  config.output = folder.file(output);
  config.overwrite = true;
  config.scale = p.scale();
  config.blocks = {{ChelaParams{p.weights.shape.num_heads}, {}}};
  return config;
}

/// The largest error relative to the largest output; NaN counts as infinite.
double relative_error(const std::vector<double>& found, const std::vector<double>& wanted) {
  if (found.size() != wanted.size() || found.empty()) return HUGE_VAL;
  double largest = 0.0, error = 0.0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    largest = std::max(largest, std::abs(wanted[i]));
    const double difference = std::abs(found[i] - wanted[i]);
    error = difference >= 0.0 ? std::max(error, difference) : HUGE_VAL;
  }
  return error / largest;
}

/// q, k and v of 4 heads with v_dim 3.
void put_heads(const std::string& file, std::int64_t batch, std::int64_t seq_len, Transport& transport) {
  if (transport.rank() == 0) {
    std::vector<float> values(static_cast<std::size_t>(batch * seq_len * 4 * 3));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
    for (const char* name : {"q", "k", "v"}) put(file, name, {batch, seq_len, 4, 3}, values);
  }
  transport.barrier();
}

}  // namespace

TEST_CASE("a CHELA block, file to file, equals the oracle at kernels short and as long as the sequence") {
  for (const ChelaProblem& p :
       {make_chela_problem(203, {8, 12, 4, 3, 17}, 2), make_chela_problem(141, {6, 6, 2, 4, 141}, 1),
        make_chela_problem(2, {4, 4, 1, 3, 2}, 2)}) {
    const std::vector<double> exact = p.exact();
    for_each_world([&](Transport& transport) {
      const Folder folder(transport);
      write_input(folder.file("in.h5"), p, {0, p.seq_len}, transport);
      for (const bool reproducible : {false, true}) {
        RunConfig config = make_config(folder, p, "in.h5", "out.h5");
        config.reproducible = reproducible;
        config.want_state = true;
        const RunReport report = run(config, make_context(transport));
        expect(transport, report.finished && report.not_collective == 0);
        expect(transport, report.peak_bytes <= report.plan.memory.total());
        expect(transport, report.computed_flops > 0.0);
        expect(transport, relative_error(read_output(config.output, "0", "chela/y", transport), exact) <= 1e-5);
        expect(transport, verifies(config.input, config.output, transport));
      }
      transport.barrier();
    });
  }
  SUCCEED();
}

TEST_CASE("in a hybrid CHELA fills its heads' slots of o") {
  const ChelaProblem p = make_chela_problem(101, {6, 8, 2, 3, 40}, 2);
  const std::vector<double> exact = p.exact();
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    write_input(folder.file("in.h5"), p, {0, p.seq_len}, transport);
    put_heads(folder.file("in.h5"), 2, 101, transport);
    RunConfig config = make_config(folder, p, "in.h5", "out.h5");
    config.assignments = {{SoftmaxParams{}, {1}}, {StickBreakingParams{}, {3}}};
    config.blocks = {{ChelaParams{2}, {0, 2}}};
    run(config, make_context(transport));
    const std::vector<double> o = read_output(config.output, "0", "o", transport);
    std::vector<double> found;
    for (std::size_t row = 0; row < 2 * 101; ++row) {
      for (const std::size_t head : {0, 2}) {
        for (std::size_t i = 0; i < 3; ++i) found.push_back(o[(row * 4 + head) * 3 + i]);
      }
    }
    expect(transport, relative_error(found, exact) <= 1e-5);
    expect(transport, verifies(config.input, config.output, transport));
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("CHELA: a sequence cut into two jobs gives what one gives") {
  const ChelaProblem p = make_chela_problem(150, {6, 6, 2, 4, 90}, 2);
  const std::vector<double> exact = p.exact();
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    for (const std::int64_t cut : {7, 101}) {
      const std::string number = std::to_string(cut);
      write_input(folder.file(number + "a.h5"), p, {0, cut}, transport);
      write_input(folder.file(number + "b.h5"), p, {cut, 150}, transport);
      RunConfig first = make_config(folder, p, number + "a.h5", "first.h5");
      first.want_state = true;
      run(first, make_context(transport));
      RunConfig second = make_config(folder, p, number + "b.h5", "second.h5");
      second.initial_state = first.output;
      const RunReport report = run(second, make_context(transport));
      expect(transport, report.peak_bytes <= report.plan.memory.total());
      expect(transport, verifies(second.input, second.output, transport));
      const std::vector<double> a = read_output(first.output, "0", "chela/y", transport);
      const std::vector<double> b = read_output(second.output, "0", "chela/y", transport);
      std::vector<double> both;
      for (std::int64_t item = 0; item < 2; ++item) {
        both.insert(both.end(), a.begin() + item * cut * 6, a.begin() + (item + 1) * cut * 6);
        both.insert(both.end(), b.begin() + item * (150 - cut) * 6, b.begin() + (item + 1) * (150 - cut) * 6);
      }
      expect(transport, relative_error(both, exact) <= 1e-5);
      transport.barrier();
    }
  });
  SUCCEED();
}

TEST_CASE("reproducible CHELA: the same file content for any number of ranks") {
  const ChelaProblem p = make_chela_problem(517, {8, 8, 2, 4, 300}, 1);
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    write_input(folder.file("in.h5"), p, {0, p.seq_len}, transport);
    RunConfig config = make_config(folder, p, "in.h5", "out.h5");
    config.reproducible = true;
    run(config, make_context(transport));
    const std::vector<double> y = read_output(config.output, "0", "chela/y", transport);
    if (transport.rank() == 0) {
      run_ranks(1, [&](Transport& solo) {
        config.output = folder.file("solo.h5");
        RunContext context = make_context(solo);
        context.make_access = [](Transport& group) { return make_shared_file_access(group); };
        run(config, context);
        const auto access = make_shared_file_access(solo);
        ActivationReader reader(*access, config.output);
        expect(transport, reader.read_whole(*reader.find("0", "chela/y")) == y);
      });
    }
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("verify finds one wrong element of CHELA's output, alone and in a hybrid") {
  const ChelaProblem p = make_chela_problem(60, {6, 6, 2, 3, 25}, 1);
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    write_input(folder.file("in.h5"), p, {0, 60}, transport);
    put_heads(folder.file("in.h5"), 1, 60, transport);
    RunConfig config = make_config(folder, p, "in.h5", "out.h5");
    config.want_state = true;
    for (const char* dataset : {"/layers/0/state/chela/S", "/layers/0/chela/y", "/layers/0/o"}) {
      const bool is_state = std::string(dataset).ends_with("S");
      run(config, make_context(transport));
      expect(transport, verifies(config.input, config.output, transport));
      transport.barrier();
      if (transport.rank() == 0) {
        // The last element, of the last head, with its exponent's upper bits all ones.
        const auto [begin, bytes] = test::find_data(config.output, dataset);
        test::spoil(config.output, begin + bytes - 1, 1);
      }
      transport.barrier();
      const VerifyReport report = verify_all(config.input, config.output, transport);
      for (const DatasetCheck& check : report.checks) {
        const bool is_spoilt = check.mechanism == "chela" && is_state == (check.dataset == "state/S");
        expect(transport, check.passed() == !is_spoilt);
      }
      expect(transport, !report.checks.empty() && !report.passed());
      if (is_state) continue;
      config.assignments = {{SoftmaxParams{}, {0, 2}}};
      config.blocks = {{ChelaParams{2}, {1, 3}}};
    }
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("what CHELA refuses is one error of all ranks, and verify finds an output of other weights") {
  const ChelaProblem p = make_chela_problem(60, {6, 4, 2, 3, 5}, 1);
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    write_input(folder.file("in.h5"), p, {0, 60}, transport);
    put_heads(folder.file("in.h5"), 1, 60, transport);
    ChelaProblem infinite = p;
    infinite.weights.kq[1] = INFINITY;
    write_input(folder.file("infinite.h5"), infinite, {0, 60}, transport);
    expect(transport,
           mentions(refusal(make_config(folder, p, "infinite.h5", "bad.h5"), transport), "/layers/0/chela/kq"));

    RunConfig config = make_config(folder, p, "in.h5", "bad.h5");
    config.blocks = {{ChelaParams{4}, {}}};
    expect(transport, mentions(refusal(config, transport), "chela.heads = 4 must divide both"));
    config.blocks = {{ChelaParams{}, {0}}};
    config.assignments = {{SoftmaxParams{}, {1, 2, 3}}};
    expect(transport, mentions(refusal(config, transport), "chela gives 6 channels"));
    config = make_config(folder, p, "in.h5", "bad.h5");
    config.memory_bytes = 1000;
    expect(transport, mentions(refusal(config, transport), "--memory"));
    config.memory_bytes.reset();
    config.layout = LayoutKind::kZigzag;
    expect(transport, mentions(refusal(config, transport), "zigzag"));
    config.layout.reset();
    config.initial_state = folder.file("in.h5");
    expect(transport, mentions(refusal(config, transport), "state/chela/"));

    config = make_config(folder, p, "in.h5", "out.h5");
    run(config, make_context(transport));
    ChelaProblem other = p;
    other.weights.short_conv[0] += 0.5f;
    write_input(folder.file("other.h5"), other, {0, 60}, transport);
    expect(transport, !verify_all(folder.file("other.h5"), config.output, transport).passed());
    transport.barrier();
  });
  SUCCEED();
}
