// A CHELA layer from file to file: branches folded, states out and in; compiled once with ranks as threads and once
// under mpirun.

#include <cmath>
#include <optional>

#include "engine/chela_layer.hpp"
#include "engine/verify_chela.hpp"
#include "tests/engine/access.hpp"
#include "tests/engine/chela_file.hpp"
#include "tests/engine/job.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using namespace ringscan::testing;
using ringscan::test::expect;
using ringscan::test::Folder;
using ringscan::test::for_each_world;
using ringscan::test::make_access;

namespace {

struct JobFiles {
  std::string input, output, initial;
};

/// Whether the oracle agrees with some rows of the output; with a scale that is off by `wrong` it should not.
bool verify_job(const JobFiles& files, ActivationReader& output, const ChelaProblem& p, FileAccess& access,
                double wrong) {
  ActivationReader input(access, files.input);
  std::optional<ActivationReader> initial;
  if (!files.initial.empty()) initial.emplace(access, files.initial);
  const ChelaLayer layer = inspect_chela_layer(input, "0", p.weights.shape.num_heads, {});
  std::vector<std::int64_t> rows;
  for (std::int64_t row = layer.seq_len % 3; row < layer.seq_len; row += 3) rows.push_back(row);
  if (rows.empty() || rows.back() + 1 < layer.seq_len) rows.push_back(layer.seq_len - 1);
  ChelaCheckTask task;
  task.layer = &layer;
  task.scale = p.scale() * (1.0 + wrong);
  task.input = &input;
  task.initial = initial ? &*initial : nullptr;
  task.output = &output;
  task.rows = rows;
  const std::vector<DatasetCheck> checks = check_chela_layer(task, access.group());
  return checks.size() == 2 && checks[0].rows == static_cast<std::int64_t>(rows.size()) * p.batch &&
         checks[0].passed() && checks[1].passed();
}

/// y of every row, on every rank.
std::vector<double> run_job(const JobFiles& files, const ChelaProblem& p, bool reproducible, Transport& transport) {
  const auto access = make_access(transport);
  const auto chela = make_cpu_chela_kernels();
  const auto ssm = make_cpu_ssm_kernels();
  const auto kernels = make_cpu_kernels();
  Heartbeat heartbeat;
  MemoryLedger ledger;
  {
    ActivationReader reader(*access, files.input);
    std::optional<ActivationReader> initial;
    if (!files.initial.empty()) initial.emplace(*access, files.initial);
    ActivationWriter writer(*access, files.output, false);
    const ChelaLayer layer = inspect_chela_layer(reader, "0", p.weights.shape.num_heads, {});
    const SequenceLayout layout(LayoutKind::kContiguous, layer.seq_len, transport.world_size(), reproducible ? 64 : 1);
    ChelaLayerTask task;
    task.layer = &layer;
    task.layout = &layout;
    task.scale = p.scale();
    task.reproducible = reproducible;
    task.reader = &reader;
    task.initial = initial ? &*initial : nullptr;
    task.writer = &writer;
    const ChelaOutput output = create_chela_output(writer, layer, nullptr, {}, true);
    task.output = &output;
    task.writes_state = true;
    run_chela_layer(task, transport, {*chela, *ssm, kernels->linear()}, &ledger, heartbeat);
    writer.finish();
  }
  ActivationReader output(*access, files.output);
  expect(transport, verify_job(files, output, p, *access, 0.0));
  expect(transport, !verify_job(files, output, p, *access, 0.5));
  return output.read_whole(*output.find("0", "chela/y"));
}

bool is_close(const std::vector<double>& found, const std::vector<double>& wanted) {
  double largest = 0.0;
  for (const double value : wanted) largest = std::max(largest, std::abs(value));
  if (found.size() != wanted.size()) return false;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (!(std::abs(found[i] - wanted[i]) <= 1e-5 * largest)) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("branches of a convolution fold into one kernel") {
  // Two channels; widths 1, 3 and 2. Tap j is the input j tokens before, in each branch.
  const auto folded = fold_branches({{10, 20}, {1, 2, 3, 4, 5, 6}, {100, 200, 300, 400}}, 2);
  REQUIRE(folded == std::vector<float>{111, 202, 3, 324, 405, 6});
}

TEST_CASE("the default number of heads") {
  REQUIRE(default_chela_heads(512, 1024) == 8);
  REQUIRE(default_chela_heads(512, 100) == 1);
  REQUIRE(default_chela_heads(20, 20) == 1);
}

TEST_CASE("a CHELA layer from file to file, in one job and in two") {
  for (const ChelaProblem& p :
       {make_chela_problem(70, {8, 12, 4, 3, 9}, 2), make_chela_problem(150, {6, 6, 2, 1, 90}, 1),
        make_chela_problem(20, {6, 4, 1, 4, 33}, 2), make_chela_problem(9, {4, 4, 1, 2, 1}, 1)}) {
    const auto wanted = p.exact();
    for_each_world([&](Transport& transport) {
      const Folder folder(transport);
      const std::int64_t row = p.weights.shape.channels;
      const std::int64_t cut = p.seq_len / 3;
      write_input(folder.file("whole.h5"), p, {0, p.seq_len}, transport);
      write_input(folder.file("a.h5"), p, {0, cut}, transport);
      write_input(folder.file("b.h5"), p, {cut, p.seq_len}, transport);
      for (const bool reproducible : {false, true}) {
        const std::string way = reproducible ? "-1" : "-0";
        const auto out = [&](const std::string& name) { return folder.file(name + way + ".h5"); };
        expect(transport,
               is_close(run_job({folder.file("whole.h5"), out("whole-y"), ""}, p, reproducible, transport), wanted));
        const auto a = run_job({folder.file("a.h5"), out("a-y"), ""}, p, reproducible, transport);
        const auto b = run_job({folder.file("b.h5"), out("b-y"), out("a-y")}, p, reproducible, transport);
        std::vector<double> joined(wanted.size());
        for (std::int64_t item = 0; item < p.batch; ++item) {
          const std::int64_t rest = p.seq_len - cut;
          std::copy_n(a.begin() + item * cut * row, cut * row, joined.begin() + item * p.seq_len * row);
          std::copy_n(b.begin() + item * rest * row, rest * row, joined.begin() + (item * p.seq_len + cut) * row);
        }
        expect(transport, is_close(joined, wanted));
      }
      transport.barrier();
    });
  }
  SUCCEED();
}

TEST_CASE("heads that do not divide, and a state of other widths, get their one line") {
  for_each_world([](Transport& transport) {
    const Folder folder(transport);
    const ChelaProblem p = make_chela_problem(10, {6, 4, 2, 3, 5}, 1);
    const ChelaProblem wider = make_chela_problem(10, {6, 4, 2, 3, 7}, 1);
    write_input(folder.file("a.h5"), p, {0, 10}, transport);
    write_input(folder.file("b.h5"), wider, {0, 10}, transport);
    const auto message_of = [&](const auto& work) -> std::string {
      try {
        work();
      } catch (const Error& error) {
        return error.code() == ExitCode::kBadInput ? error.what() : "another code";
      }
      return "no error";
    };
    const auto access = make_access(transport);
    const std::string heads = message_of([&] {
      const ActivationReader reader(*access, folder.file("a.h5"));
      inspect_chela_layer(reader, "0", 4, {});
    });
    expect(transport, heads.find("chela.heads = 4 must divide both") != std::string::npos);
    run_job({folder.file("a.h5"), folder.file("a-y.h5"), ""}, p, false, transport);
    const std::string widths = message_of([&] {
      run_job({folder.file("b.h5"), folder.file("b-y.h5"), folder.file("a-y.h5")}, wider, false, transport);
    });
    expect(transport, widths.find("state/chela/long_inputs") != std::string::npos);
    transport.barrier();
  });
  SUCCEED();
}
