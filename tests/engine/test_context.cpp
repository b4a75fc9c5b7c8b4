// A sequence cut into files, the earlier ones as --context of the last: file to file, the rows of the last file equal
// those of one job over the joined sequence. Compiled once with ranks as threads and once under mpirun.

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "comm/local_transport.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/engine/cut_job.hpp"
#include "tests/engine/job.hpp"
#include "tests/engine/problem_file.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/context_problem.hpp"

using namespace ringscan;
using namespace ringscan::testing;
using ringscan::test::cut_layers;
using ringscan::test::expect;
using ringscan::test::Folder;
using ringscan::test::for_each_world;
using ringscan::test::make_access;
using ringscan::test::make_context;
using ringscan::test::Problems;
using ringscan::test::read_output;
using ringscan::test::verifies;
using ringscan::test::verify_all;
using ringscan::test::write_cut;
using ringscan::test::write_input;

namespace {

AttentionProblem make_problem(std::int64_t seq_len, std::uint32_t seed, std::int64_t batch = 1) {
  AttentionProblem problem;
  problem.batch = batch;
  problem.seq_len = seq_len;
  problem.num_heads = 4;
  problem.num_kv_heads = 2;
  problem.head_dim = 12;
  problem.v_dim = 8;
  problem.seed = seed;
  problem.fill();
  return problem;
}

SparseParams sparse(SparseSelect select, double exponent, double alpha, SparseCount count = SparseCount::kVisible) {
  return SparseParams{select, alpha, exponent, 1, count};
}

std::vector<std::vector<HeadAssignment>> all_hybrids() {
  return {{{SoftmaxParams{}, {0}},
           {StickBreakingParams{}, {1}},
           {CogParams{}, {2}},
           {sparse(SparseSelect::kTopk, 0.7, 1.0), {3}}},
          {{SoftmaxParams{true, 50}, {0, 2}},
           {StickBreakingParams{true, RemainderPolicy::kValue, 0.0}, {1}},
           {sparse(SparseSelect::kWindow, 0.7, 2.0), {3}}},
          {{SoftmaxParams{true, 240}, {0}},
           {StickBreakingParams{false, RemainderPolicy::kDrop, 0.0}, {1, 2}},
           {sparse(SparseSelect::kTopk, 0.8, 1.0, SparseCount::kTotal), {3}}}};
}

std::vector<double> tail_rows(const std::vector<double>& whole, const AttentionProblem& layer, std::int64_t cut) {
  return token_rows(whole, layer.batch, layer.seq_len, {cut, layer.seq_len});
}

/// Collective: the rows of `config`'s output equal those of one job over the joined layers.
void expect_as_one_job(const Folder& folder, const Problems& layers, const RunConfig& config, std::int64_t cut,
                       Transport& transport) {
  RunConfig joined = config;
  joined.context.clear();
  joined.input = folder.file("joined.h5");
  joined.output = folder.file("joined-out.h5");
  if (!std::filesystem::exists(joined.input)) {
    transport.barrier();
    write_input(joined.input, layers, transport);
  }
  transport.barrier();
  run(joined, make_context(transport));
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    const double tolerance = 1e-5 * max_abs(layers[layer].v);
    for (const char* dataset : {"o", "lse", "remainder", "kept_mass"}) {
      const auto found = read_output(config.output, std::to_string(layer), dataset, transport);
      const auto one = read_output(joined.output, std::to_string(layer), dataset, transport);
      expect(transport, difference(found, tail_rows(one, layers[layer], cut)) <= tolerance);
    }
  }
}

bool is_refused(const RunConfig& config, const std::string& text, Transport& transport) {
  try {
    run(config, make_context(transport));
  } catch (const Error& error) {
    const std::string message = error.what();
    return error.code() == ExitCode::kBadInput && error.is_collective() && message.find(text) != std::string::npos &&
           message.find('\n') == std::string::npos && !std::filesystem::exists(config.output);
  }
  return false;
}

}  // namespace

TEST_CASE("a sequence cut into two and three files equals one job, and the oracle") {
  const Problems layers{make_problem(313, 1, 2), make_problem(313, 2, 2)};
  for_each_world([&](Transport& transport) {
    for (const std::vector<std::int64_t>& cuts : {std::vector<std::int64_t>{131}, std::vector<std::int64_t>{97, 201}}) {
      const Folder folder(transport);
      RunConfig config = write_cut(folder, layers, cuts, transport);
      for (const auto& hybrid : all_hybrids()) {
        config.assignments = hybrid;
        config.layout = cuts.size() == 2 ? std::optional(LayoutKind::kZigzag) : std::nullopt;
        const RunReport report = run(config, make_context(transport));
        expect(transport, report.not_collective == 0);
        expect(transport, report.peak_bytes <= report.plan.memory.total());
        expect(transport, report.computed_flops <= report.plan.flops() * (1.0 + 1e-12));
        expect(transport, report.context_blocks.blocks_read > 0);
        expect(transport, report.plan.layers[0].context_tokens() == cuts.back());
        expect_as_one_job(folder, layers, config, cuts.back(), transport);
        expect(transport, verifies(config.input, config.output, transport));
      }
      transport.barrier();
    }
  });
  SUCCEED();
}

TEST_CASE("fewer tokens than ranks behind a long context, and files of another type") {
  Problems layers{make_problem(260, 3)};
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    RunConfig config = write_cut(folder, layers, {101, 257}, transport);
    Problems coarse = cut_layers(layers, {0, 101});
    coarse[0].type = ElementType::kBfloat16;
    config.context[0] = folder.file("coarse.h5");
    write_input(config.context[0], coarse, transport);
    for (const auto& hybrid : all_hybrids()) {
      config.assignments = hybrid;
      config.output_dtype = ElementType::kFloat32;
      const RunReport report = run(config, make_context(transport));
      expect(transport, report.peak_bytes <= report.plan.memory.total());
      expect(transport, verifies(config.input, config.output, transport));
    }
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("layers whose lengths and contexts differ") {
  const AttentionProblem one = make_problem(203, 12), other = make_problem(77, 13);
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    RunConfig config;
    config.input = folder.file("last.h5");
    config.context = {folder.file("first.h5")};
    config.output = folder.file("out.h5");
    write_input(config.context[0], {cut_out(one, {0, 7}), cut_out(other, {0, 69})}, transport);
    write_input(config.input, {cut_out(one, {7, 203}), cut_out(other, {69, 77})}, transport);
    config.assignments = all_hybrids()[0];
    run(config, make_context(transport));
    expect(transport, verifies(config.input, config.output, transport));
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("heads with keys and heads with a state go on side by side") {
  const Problems layers{make_problem(203, 11)};
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    RunConfig last = write_cut(folder, layers, {87}, transport);
    last.assignments = {{SoftmaxParams{}, {0, 3}}, {StickBreakingParams{}, {2}}, {LinearParams{}, {1}}};
    last.want_kept_mass = false;
    RunConfig first = last;
    first.input = last.context[0];
    first.context.clear();
    first.output = folder.file("first-out.h5");
    first.want_state = true;
    run(first, make_context(transport));
    last.initial_state = first.output;
    run(last, make_context(transport));
    expect(transport, verifies(last.input, last.output, transport));

    RunConfig joined = last;
    joined.context.clear();
    joined.initial_state.clear();
    joined.input = folder.file("joined.h5");
    joined.output = folder.file("joined-out.h5");
    write_input(joined.input, layers, transport);
    run(joined, make_context(transport));
    const auto one = read_output(joined.output, "0", "o", transport);
    const auto found = read_output(last.output, "0", "o", transport);
    // An output of the linear head, without decay, grows with the sequence.
    double largest = max_abs(layers[0].v);
    for (const double x : one) largest = std::max(largest, std::abs(x));
    expect(transport, difference(found, tail_rows(one, layers[0], 87)) <= 1e-5 * largest);
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("blocks that no stick and no window reaches are not read; small memory means small blocks") {
  AttentionProblem layer = make_problem(6000, 4);
  layer.num_heads = layer.num_kv_heads = 1;
  layer.head_dim = layer.v_dim = 8;
  layer.fill();
  const std::int64_t cut = 5700;
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    RunConfig config = write_cut(folder, {layer}, {2011, cut}, transport);
    config.want_lse = config.want_remainder = config.want_kept_mass = false;
    const auto blocks_of = [&](const Mechanism& mechanism) {
      config.assignments = {{mechanism, {}}};
      config.memory_bytes.reset();
      config.dry_run = true;
      const MemoryPlan roomy = run(config, make_context(transport)).plan.memory;
      config.dry_run = false;
      // Two blocks of 512 tokens (in order: one), and a little.
      config.memory_bytes = roomy.total() - roomy.context_bytes +
                            (transport.supports_threads() ? 2 : 1) * 512 * 16 * sizeof(float) + 4096;
      const RunReport report = run(config, make_context(transport));
      expect(transport, report.plan.context_block == 512);
      expect(transport, report.peak_bytes <= *config.memory_bytes);
      return report.context_blocks;
    };
    // 3689 tokens of the nearer file in 8 blocks (the last one ragged), 2011 of the farther one in 5.
    const ContextFigures all = blocks_of(SoftmaxParams{});
    expect(transport, all.blocks_read == 13 && all.blocks_left == 0);
    const ContextFigures window = blocks_of(SoftmaxParams{true, 600});
    expect(transport, window.blocks_read == 2 && window.blocks_left == 11);
    const ContextFigures dense = blocks_of(StickBreakingParams{false, RemainderPolicy::kDrop, 0.0});
    expect(transport, dense.blocks_read == 13);
    const ContextFigures stick = blocks_of(StickBreakingParams{});
    expect(transport, stick.blocks_read <= 3 && stick.blocks_left >= 10);
    expect(transport, verifies(config.input, config.output, transport));
    // Room for one block alone: it is read in order, and no block is on its way when the sticks are used up.
    if (!transport.supports_threads()) return;
    config.memory_bytes = *config.memory_bytes - 512 * 16 * sizeof(float);
    const RunReport tight = run(config, make_context(transport));
    expect(transport, !tight.plan.overlaps_io && tight.plan.context_block == 512);
    expect(transport, tight.peak_bytes <= *config.memory_bytes);
    expect(transport, tight.context_blocks.blocks_read <= stick.blocks_read);
    expect(transport, verifies(config.input, config.output, transport));
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("a real sample cut in three gives the outputs that its model expects") {
  const std::string sample = RINGSCAN_TEST_DATA "/real_layer1.h5";
  for_each_world([&](Transport& transport) {
    AttentionProblem layer;
    layer.seq_len = 449;
    layer.num_heads = layer.num_kv_heads = 4;
    layer.head_dim = layer.v_dim = 64;
    layer.type = ElementType::kBfloat16;
    for (auto& [name, values] : {std::pair("q", &layer.q), std::pair("k", &layer.k), std::pair("v", &layer.v)}) {
      const auto whole = read_output(sample, "1", name, transport);
      values->assign(whole.begin(), whole.end());
    }
    const auto expected = read_output(sample, "1", "o", transport);
    const Folder folder(transport);
    RunConfig config = write_cut(folder, {layer}, {130, 301}, transport);
    config.assignments = {{SoftmaxParams{}, {0, 1}}, {StickBreakingParams{}, {2, 3}}};
    config.want_lse = config.want_remainder = config.want_kept_mass = false;
    config.output_dtype = ElementType::kFloat32;
    run(config, make_context(transport));
    // The expected output is numpy's in float32, itself within 1e-6 of max|v| (4.6 to 7.1).
    const auto found = read_output(config.output, "0", "o", transport);
    expect(transport, max_abs_difference(found, tail_rows(expected, layer, 301)) <= 5e-5);
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("reproducible: with a context, too, the same bits for any number of ranks") {
  const Problems layers{make_problem(700, 5)};
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    RunConfig config = write_cut(folder, layers, {101, 230}, transport);
    config.reproducible = true;
    for (const auto& hybrid : all_hybrids()) {
      config.assignments = hybrid;
      run(config, make_context(transport));
      const auto o = read_output(config.output, "0", "o", transport);
      if (transport.rank() == 0) {
        run_ranks(1, [&](Transport& solo) {
          RunConfig alone = config;
          alone.output = folder.file("solo.h5");
          RunContext context;
          context.transport = &solo;
          context.make_access = [](Transport& group) { return make_shared_file_access(group); };
          run(alone, context);
          const auto access = make_shared_file_access(solo);
          ActivationReader reader(*access, alone.output);
          expect(transport, reader.read_whole(*reader.find("0", "o")) == o);
        });
      }
      transport.barrier();
    }
  });
  SUCCEED();
}

TEST_CASE("verify finds an output of other context") {
  const Problems layers{make_problem(300, 6)};
  const Problems others{make_problem(300, 7)};
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    RunConfig config = write_cut(folder, layers, {131}, transport);
    config.assignments = all_hybrids()[0];
    run(config, make_context(transport));
    expect(transport, verify_all(config.input, config.output, transport).passed());
    transport.barrier();
    if (transport.rank() == 0) std::filesystem::remove(config.context[0]);
    transport.barrier();
    write_input(config.context[0], cut_layers(others, {0, 131}), transport);
    transport.barrier();
    const VerifyReport report = verify_all(config.input, config.output, transport);
    // A stick that reaches into it is used up either way.
    for (const DatasetCheck& check : report.checks) {
      expect(transport, check.passed() == (check.dataset == "remainder"));
    }
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("verify finds one wrong number behind a context") {
  const Problems layers{make_problem(300, 10)};
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    RunConfig config = write_cut(folder, layers, {99, 187}, transport);
    config.assignments = {{CogParams{}, {}}};
    config.want_lse = config.want_remainder = config.want_kept_mass = false;
    run(config, make_context(transport));
    auto o = read_output(config.output, "0", "o", transport);
    std::vector<float> changed(o.begin(), o.end());
    changed[0] += 1e-3f;  // the first row, which no sample leaves out
    transport.barrier();
    if (transport.rank() == 0) {
      SoloGroup group;
      const auto access = make_shared_file_access(group);
      ActivationWriter writer(*access, config.output, true);
      writer.write_slab(writer.create("0", "o", ElementType::kFloat32, {1, 113, 4, 8}), {{{0, 113}}, {0, 1, 2, 3}},
                        changed.data());
      writer.set_attribute("configuration", config.text());
      writer.set_attribute("backend", std::string("cpu"));
      writer.finish();
    }
    transport.barrier();
    const auto access = make_access(transport);
    const VerifyReport report = verify({config.input, config.output, 16, 0, std::nullopt}, *access);
    expect(transport, report.checks.size() == 1 && report.checks[0].worst_error() > 1e-5);
    expect(transport, report.checks[0].worst[0].query == 0 && report.checks[0].worst[1].error <= 1e-5);
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("a context that does not fit is refused in one line, before any output is made") {
  const Problems layers{make_problem(90, 8), make_problem(90, 9)};
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    const RunConfig good = write_cut(folder, layers, {40}, transport);
    int number = 0;
    const auto refused = [&](const Problems& context, const std::string& text) {
      RunConfig config = good;
      config.assignments = {{SoftmaxParams{}, {}}};
      config.want_remainder = config.want_kept_mass = false;
      config.context = {good.context[0], folder.file("bad" + std::to_string(number++) + ".h5")};
      if (!context.empty()) write_input(config.context[1], context, transport);
      return is_refused(config, text, transport);
    };
    expect(transport, refused({}, "bad0.h5"));
    expect(transport, refused({layers[0]}, "/layers/1/k is missing"));
    for (const auto& change : {&AttentionProblem::head_dim, &AttentionProblem::num_kv_heads, &AttentionProblem::batch,
                               &AttentionProblem::v_dim}) {
      AttentionProblem other = layers[0];
      other.*change *= 2;
      other.fill();
      const bool is_v = change == &AttentionProblem::v_dim;
      expect(transport, refused({layers[0], other}, is_v ? "/layers/1/v: shape [" : "/layers/1/k: shape ["));
    }
    AttentionProblem broken = layers[0];
    broken.k[7] = std::numeric_limits<float>::quiet_NaN();
    expect(transport, refused({broken, layers[1]}, "/layers/0/k"));
    transport.barrier();
  });
  SUCCEED();
}
