// verify: accepts what the oracle gives, and finds each kind of difference.

#include "engine/verify.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "comm/local_transport.hpp"
#include "core/error.hpp"
#include "engine/row_sample.hpp"
#include "engine/run_config.hpp"
#include "io/activation_file.hpp"
#include "kernels/reference/oracle.hpp"
#include "tests/io/scratch_folder.hpp"
#include "tests/support/attention_problem.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using namespace ringscan::testing;

namespace {

using ringscan::test::ScratchFolder;

std::string file(const ScratchFolder& folder, const char* name) {
  return folder.path() + "/" + name;
}

/// Floats as doubles that float32 cannot hold: a float64 file, which the engine rounds on reading.
std::vector<double> beside(const std::vector<float>& values) {
  std::vector<double> result(values.begin(), values.end());
  for (double& x : result) x *= 1.0 + 1e-9;
  return result;
}

void write_whole(ActivationWriter& writer, const char* name, const std::vector<std::int64_t>& shape,
                 const std::vector<double>& values, ElementType type) {
  const DatasetInfo info = writer.create("0", name, type, shape);
  SlabSelection selection{{{0, shape[1]}}, {}};
  for (int head = 0; head < shape[2]; ++head) selection.heads.push_back(head);
  if (type == ElementType::kFloat64) {
    writer.write_slab(info, selection, values.data());
    return;
  }
  std::vector<std::byte> converted(values.size() * size_of(type));
  convert_elements(values.data(), ElementType::kFloat64, converted.data(), type, values.size());
  writer.write_slab(info, selection, converted.data());
}

AttentionProblem make_problem() {
  AttentionProblem problem;
  problem.batch = 2;
  problem.seq_len = 131;
  problem.num_heads = 4;
  problem.num_kv_heads = 2;
  problem.head_dim = 8;
  problem.v_dim = 6;
  problem.fill();
  return problem;
}

void write_input(const AttentionProblem& p, const std::string& path) {
  SoloGroup group;
  const auto access = make_shared_file_access(group);
  ActivationWriter writer(*access, path, true);
  write_whole(writer, "q", {p.batch, p.seq_len, p.num_heads, p.head_dim}, beside(p.q), ElementType::kFloat64);
  write_whole(writer, "k", {p.batch, p.seq_len, p.num_kv_heads, p.head_dim}, beside(p.k), ElementType::kFloat64);
  write_whole(writer, "v", {p.batch, p.seq_len, p.num_kv_heads, p.v_dim}, beside(p.v), ElementType::kFloat64);
  writer.finish();
}

/// What a run of this configuration would write: heads 0-1 softmax, 2-3 stick-breaking.
struct Output {
  RunConfig config;
  std::vector<std::int64_t> shape;
  std::vector<double> o, lse, remainder;
  ElementType type = ElementType::kFloat32;

  std::size_t at(std::int64_t batch, std::int64_t query, std::int64_t head) const {
    return static_cast<std::size_t>((batch * shape[1] + query) * shape[2] + head);
  }
  void write(const std::string& path) const {
    SoloGroup group;
    const auto access = make_shared_file_access(group);
    ActivationWriter writer(*access, path, true);
    write_whole(writer, "o", shape, o, type);
    const std::vector<std::int64_t> statistic_shape(shape.begin(), shape.begin() + 3);
    if (!lse.empty()) write_whole(writer, "lse", statistic_shape, lse, ElementType::kFloat32);
    if (!remainder.empty()) write_whole(writer, "remainder", statistic_shape, remainder, ElementType::kFloat32);
    writer.set_attribute("configuration", config.text());
    writer.set_attribute("backend", std::string("cpu"));
    writer.finish();
  }
};

Output make_output(const AttentionProblem& problem, const SoftmaxParams& softmax, const StickBreakingParams& stick) {
  Output output;
  output.config.input = "in.h5";
  output.config.output = "out.h5";
  output.config.assignments = {{softmax, {0, 1}}, {stick, {2, 3}}};
  output.shape = {problem.batch, problem.seq_len, problem.num_heads, problem.v_dim};
  const AttentionResult of_softmax = exact_result(problem, softmax);
  const AttentionResult of_stick = exact_result(problem, stick);
  const auto v_dim = static_cast<std::size_t>(problem.v_dim);
  for (std::size_t row = 0; row < of_softmax.statistic.size(); ++row) {
    const bool is_stick = row % 4 >= 2;
    const auto first = (is_stick ? of_stick : of_softmax).o.begin() + static_cast<std::ptrdiff_t>(row * v_dim);
    output.o.insert(output.o.end(), first, first + problem.v_dim);
    output.lse.push_back(is_stick ? std::nan("") : of_softmax.statistic[row]);
    output.remainder.push_back(is_stick ? of_stick.statistic[row] : std::nan(""));
  }
  return output;
}

VerifyReport check(const ScratchFolder& folder, std::optional<std::int64_t> rows = std::nullopt) {
  SoloGroup group;
  const auto access = make_shared_file_access(group);
  VerifyRequest request;
  request.input = file(folder, "in.h5");
  request.output = file(folder, "out.h5");
  request.rows = rows;
  return verify(request, *access);
}

std::string error_of(const ScratchFolder& folder) {
  try {
    check(folder);
  } catch (const Error& error) {
    return error.code() == ExitCode::kBadInput ? error.what() : "not bad input";
  }
  return "";
}

}  // namespace

TEST_CASE("verify accepts the oracle's results under every parameter") {
  const AttentionProblem problem = make_problem();
  const ScratchFolder folder;
  write_input(problem, file(folder, "in.h5"));
  const std::vector<std::pair<SoftmaxParams, StickBreakingParams>> variants = {
      {{true, 0}, {false, RemainderPolicy::kDrop, 0x1p-24}},
      {{true, 1}, {true, RemainderPolicy::kDrop, 0.0}},
      {{true, 10}, {false, RemainderPolicy::kValue, 0.0}},
  };
  for (const auto& [softmax, stick] : variants) {
    Output output = make_output(problem, softmax, stick);
    output.write(file(folder, "out.h5"));
    const VerifyReport report = check(folder);
    INFO(summarize(report));
    REQUIRE(report.passed());
    REQUIRE(report.checks.size() == 4);  // o and the statistic of two mechanisms
    for (const DatasetCheck& found : report.checks) {
      REQUIRE(found.rows == problem.batch * problem.seq_len * 2);
      REQUIRE(found.worst_error() < 1e-6);
      REQUIRE(found.bound >= 1e-5);
      REQUIRE(found.bound < 1.1e-5);
    }
  }
}

TEST_CASE("verify takes the mechanism of all heads, and later keys where they are seen") {
  const AttentionProblem problem = make_problem();
  const ScratchFolder folder;
  write_input(problem, file(folder, "in.h5"));
  const SoftmaxParams everything{false, 0};
  Output output = make_output(problem, everything, {});
  const AttentionResult exact = exact_result(problem, everything);
  output.config.assignments = {{everything, {}}};
  output.o = exact.o;
  output.lse = exact.statistic;
  output.remainder.clear();
  output.write(file(folder, "out.h5"));
  const VerifyReport report = check(folder);
  INFO(summarize(report));
  REQUIRE(report.passed());
  REQUIRE(report.checks.size() == 2);
  REQUIRE(report.checks[0].rows == problem.batch * problem.seq_len * problem.num_heads);
}

TEST_CASE("verify finds what is wrong, and where") {
  const AttentionProblem problem = make_problem();
  const ScratchFolder folder;
  write_input(problem, file(folder, "in.h5"));
  const Output right = make_output(problem, {}, {});
  const double largest = max_abs(problem.v);
  Output wrong = right;
  const auto worst_of = [&](std::size_t index) {
    wrong.write(file(folder, "out.h5"));
    const VerifyReport report = check(folder);
    REQUIRE_FALSE(report.passed());
    for (std::size_t i = 0; i < report.checks.size(); ++i) REQUIRE(report.checks[i].passed() == (i != index));
    REQUIRE(summarize(report).find("FAILED") != std::string::npos);
    return report.checks[index].worst.front();
  };

  SECTION("one element of o") {
    wrong.o[right.at(1, 77, 3) * 6 + 5] += 2e-5 * largest;
    const RowError row = worst_of(2);
    REQUIRE(row.batch == 1);
    REQUIRE(row.query == 77);
    REQUIRE(row.head == 3);
    REQUIRE(row.error > 1e-5);
    REQUIRE(row.error < 1e-4);
  }
  SECTION("NaN in o") {
    wrong.o[right.at(0, 130, 1) * 6] = std::nan("");
    const RowError row = worst_of(0);
    REQUIRE(row.query == 130);
    REQUIRE(row.error == std::numeric_limits<double>::infinity());
  }
  SECTION("lse") {
    wrong.lse[right.at(0, 5, 0)] += 1e-3;
    REQUIRE(worst_of(1).query == 5);
  }
  SECTION("remainder") {
    wrong.remainder[right.at(1, 0, 2)] = 0.999;
    REQUIRE(worst_of(3).query == 0);
  }
  SECTION("a NaN where the statistic is another mechanism's is right") {
    wrong.write(file(folder, "out.h5"));
    REQUIRE(check(folder).passed());
  }
}

TEST_CASE("verify's bound follows the output's type") {
  const AttentionProblem problem = make_problem();
  const ScratchFolder folder;
  write_input(problem, file(folder, "in.h5"));
  Output output = make_output(problem, {}, {});
  output.lse.clear();
  output.remainder.clear();
  const double largest = max_abs(problem.v);
  for (const auto& [type, bound] : {std::pair{ElementType::kFloat16, 2e-3}, std::pair{ElementType::kBfloat16, 1e-2}}) {
    output.type = type;
    output.write(file(folder, "out.h5"));
    REQUIRE(check(folder).passed());
    REQUIRE(check(folder).checks[0].bound == bound);
    Output wrong = output;
    for (double& x : wrong.o) x += 3.0 * bound * largest;
    wrong.write(file(folder, "out.h5"));
    REQUIRE_FALSE(check(folder).passed());
  }
}

TEST_CASE("verify gives the same report for every number of ranks") {
  const AttentionProblem problem = make_problem();
  const ScratchFolder folder;
  write_input(problem, file(folder, "in.h5"));
  Output output = make_output(problem, {}, {});
  for (std::size_t i = 0; i < output.o.size(); ++i) output.o[i] += 1e-4 * std::sin(static_cast<double>(i));
  output.write(file(folder, "out.h5"));
  const VerifyReport alone = check(folder, 200);
  for (const int ranks : {2, 3, 7}) {
    run_ranks(ranks, [&](Transport& transport) {
      const auto access = make_shared_file_access(transport);
      VerifyRequest request = alone.request;
      const VerifyReport report = verify(request, *access);
      bool same = report.checks.size() == alone.checks.size();
      for (std::size_t i = 0; same && i < alone.checks.size(); ++i) {
        same = report.checks[i].rows == alone.checks[i].rows &&
               report.checks[i].worst_error() == alone.checks[i].worst_error() &&
               report.checks[i].worst.front().query == alone.checks[i].worst.front().query;
      }
      if (!same) throw failure("another report");
    });
  }
}

TEST_CASE("verify refuses what is no output of this input") {
  AttentionProblem problem = make_problem();
  const ScratchFolder folder;
  write_input(problem, file(folder, "in.h5"));
  Output output = make_output(problem, {}, {});

  SECTION("a file that no run made") {
    write_input(problem, file(folder, "out.h5"));
    REQUIRE(error_of(folder).find("configuration") != std::string::npos);
  }
  SECTION("another length") {
    output.write(file(folder, "out.h5"));
    problem.seq_len = 130;
    problem.fill();
    write_input(problem, file(folder, "in.h5"));
    const std::string message = error_of(folder);
    REQUIRE(message.find("/layers/0/o") != std::string::npos);
    REQUIRE(message.find("131") != std::string::npos);
  }
  SECTION("no such file") {
    REQUIRE(error_of(folder).find("out.h5") != std::string::npos);
  }
}

TEST_CASE("samples hold first and last rows and edges, and repeat themselves") {
  for (const std::int64_t seq_len : {1, 2, 63, 64, 65, 1000, 1'000'003}) {
    for (const std::int64_t count : {1, 20, 300}) {
      const auto rows = sample_rows(seq_len, count, 5);
      REQUIRE(rows == sample_rows(seq_len, count, 5));
      REQUIRE(std::is_sorted(rows.begin(), rows.end()));
      REQUIRE(std::adjacent_find(rows.begin(), rows.end()) == rows.end());
      REQUIRE(static_cast<std::int64_t>(rows.size()) >= std::min(count, seq_len));
      REQUIRE(static_cast<std::int64_t>(rows.size()) <= std::min(std::max<std::int64_t>(count, 8), seq_len));
      REQUIRE(rows.front() == 0);
      REQUIRE(rows.back() == seq_len - 1);
      if (seq_len > 64) REQUIRE(std::binary_search(rows.begin(), rows.end(), 64));
    }
  }
  REQUIRE(sample_rows(1000, 100, 5) != sample_rows(1000, 100, 6));
}
