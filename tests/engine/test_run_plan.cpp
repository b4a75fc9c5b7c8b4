// What is decided before data moves: layouts, head groups, memory.

#include "core/error.hpp"
#include "engine/run_plan.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using ringscan::test::contains_text;

namespace {

LayerShape make_layer(std::int64_t seq_len, int num_heads, int num_kv_heads) {
  LayerShape layer;
  layer.name = "0";
  layer.batch = 1;
  layer.seq_len = seq_len;
  layer.num_heads = num_heads;
  layer.num_kv_heads = num_kv_heads;
  layer.head_dim = layer.v_dim = 64;
  return layer;
}

RunConfig make_config(const Mechanism& mechanism) {
  RunConfig config;
  config.assignments = {{mechanism, {}}};
  return config;
}

RunPlan plan_with(const RunConfig& config, const std::vector<LayerShape>& layers, int world_size,
                  std::size_t memory = std::size_t{1} << 40, bool io_thread = true) {
  return make_run_plan(config, layers, {world_size, memory, io_thread}, *make_cpu_kernels());
}

LayoutKind layout_of(const RunConfig& config, int world_size) {
  return plan_with(config, {make_layer(4096, 2, 2)}, world_size).shards.at(0).layout.kind();
}

}  // namespace

TEST_CASE("auto layout: zigzag where causal work is dense, contiguous where it is near the query") {
  CHECK(layout_of(make_config(SoftmaxParams{}), 2) == LayoutKind::kZigzag);
  CHECK(layout_of(make_config(SoftmaxParams{true, 128}), 2) == LayoutKind::kContiguous);
  CHECK(layout_of(make_config(SoftmaxParams{false, 0}), 2) == LayoutKind::kContiguous);
  CHECK(layout_of(make_config(StickBreakingParams{}), 2) == LayoutKind::kContiguous);
  StickBreakingParams dense;
  dense.epsilon = 0.0;
  CHECK(layout_of(make_config(dense), 2) == LayoutKind::kZigzag);
  CHECK(layout_of(make_config(CogParams{}), 2) == LayoutKind::kZigzag);
  CHECK(layout_of(make_config(CogParams{false}), 2) == LayoutKind::kContiguous);
  SparseParams sparse;
  CHECK(layout_of(make_config(sparse), 2) == LayoutKind::kZigzag);
  sparse.select = SparseSelect::kWindow;
  CHECK(layout_of(make_config(sparse), 2) == LayoutKind::kContiguous);
  CHECK(layout_of(make_config(SoftmaxParams{}), 1) == LayoutKind::kContiguous);
  RunConfig reproducible = make_config(SoftmaxParams{});
  reproducible.reproducible = true;
  CHECK(layout_of(reproducible, 2) == LayoutKind::kContiguous);
}

TEST_CASE("reproducible: the grid depends on the sequence alone") {
  RunConfig config = make_config(SoftmaxParams{});
  config.reproducible = true;
  for (const std::int64_t seq_len : {100, 5000, 70000, 1000000}) {
    const std::int64_t block = plan_with(config, {make_layer(seq_len, 1, 1)}, 1).key_block;
    for (const int world_size : {2, 3, 5, 8}) {
      const RunPlan plan = plan_with(config, {make_layer(seq_len, 1, 1)}, world_size);
      CHECK(plan.key_block == block);
      CHECK(plan.shards.at(0).layout.tile() == block);
    }
  }
}

TEST_CASE("a context counts as work, as reading and as memory, and takes blocks of the memory that is left") {
  LayerShape layer = make_layer(100, 4, 2);
  const std::size_t without = plan_with(make_config(SoftmaxParams{}), {layer}, 3).memory.total();
  layer.context = {{3000, ElementType::kBfloat16, 0}, {500, ElementType::kFloat32, 0}};
  const RunPlan plan = plan_with(make_config(SoftmaxParams{}), {layer}, 3);
  CHECK(plan.pairs() == 4 * (100 * 101 / 2 + 100 * 3500));
  CHECK(plan.overlaps_io);
  CHECK(plan.context_block == 3584);
  CHECK(plan.memory.context_bytes == 2 * 3584 * 2 * 128 * 4);
  CHECK(plan.shards[0].passes[0].context_bytes == (3000 * 2 + 500 * 4) * 2 * 128);
  const RunPlan window = plan_with(make_config(SoftmaxParams{true, 701}), {layer}, 3);
  CHECK(window.pairs() == 4 * 100 * 701);
  CHECK(window.shards[0].passes[0].context_tokens == 700);
  CHECK(window.shards[0].passes[0].context_bytes == (200 * 2 + 500 * 4) * 2 * 128);
  // Keys alone in each round of the search.
  const RunPlan topk = plan_with(make_config(SparseParams{}), {layer}, 3);
  CHECK(topk.pairs() == plan.pairs());
  CHECK(topk.shards[0].passes[0].context_bytes == (3000 * 2 + 500 * 4) * 2 * (128 + 3 * 64));
  SparseParams total{SparseSelect::kWindow, 1.0, 0.5, 1, SparseCount::kTotal};
  CHECK(plan_with(make_config(total), {layer}, 3).pairs() == 4 * 100 * 60);

  layer.context = {{1000000, ElementType::kBfloat16, 0}};
  CHECK(plan_with(make_config(SoftmaxParams{}), {layer}, 3).context_block == 8192);
  const RunPlan tight = plan_with(make_config(SoftmaxParams{}), {layer}, 3, without + 2 * 1500 * 2 * 128 * 2);
  CHECK(tight.context_block == 1024);
  CHECK(tight.memory.total() <= tight.memory_limit_bytes);
  CHECK_THROWS_AS(plan_with(make_config(SoftmaxParams{}), {layer}, 3, 1 << 16), Error);
}

TEST_CASE("useful work is counted exactly") {
  const RunPlan plan = plan_with(make_config(SoftmaxParams{}), {make_layer(100, 4, 2)}, 3);
  CHECK(plan.pairs() == 4 * 100 * 101 / 2);
  CHECK(plan.flops() == 2.0 * 128.0 * 4 * 5050);
  const RunPlan strict = plan_with(make_config(StickBreakingParams{}), {make_layer(100, 4, 2)}, 3);
  CHECK(strict.pairs() == 4 * 100 * 99 / 2);
  SparseParams window{SparseSelect::kWindow, 1.0, 0.5, 1, SparseCount::kVisible};
  std::int64_t kept = 0;
  for (int n = 1; n <= 100; ++n) {
    int root = 1;
    while (root * root < n) ++root;
    kept += root;
  }
  CHECK(plan_with(make_config(window), {make_layer(100, 4, 2)}, 3).pairs() == 4 * kept);
}

TEST_CASE("a memory bound makes head groups smaller, then ends overlap, then reads heads apart") {
  const std::vector<LayerShape> layers(3, make_layer(8192, 8, 8));
  const RunConfig config = make_config(SoftmaxParams{});
  const RunPlan roomy = plan_with(config, layers, 2);
  CHECK(roomy.overlaps_io);
  CHECK(roomy.shards.size() == 3);
  CHECK(roomy.shards[0].passes[0].groups.size() == 1);

  std::size_t bound = roomy.memory.total();
  std::size_t groups = 1;
  bool ended_overlap = false;
  bool read_apart = false;
  for (;;) {
    bound -= bound / 10;
    RunPlan plan;
    try {
      plan = plan_with(config, layers, 2, bound);
    } catch (const Error& error) {
      CHECK(error.code() == ExitCode::kBadInput);
      CHECK_THAT(error.what(), contains_text("memory") && contains_text("more ranks"));
      break;
    }
    REQUIRE(plan.memory.total() <= bound);
    groups = std::max(groups, plan.shards[0].passes[0].groups.size());
    ended_overlap |= !plan.overlaps_io;
    read_apart |= plan.shards.size() > 3;
    // Every head of every layer is computed once.
    std::size_t heads = 0;
    for (const ShardPlan& shard : plan.shards) {
      for (const PassPlan& pass : shard.passes) {
        for (const HeadGroup& group : pass.groups) heads += group.heads.size();
      }
    }
    REQUIRE(heads == 24);
  }
  CHECK(groups == 8);
  CHECK(ended_overlap);
  CHECK(read_apart);
}

TEST_CASE("without thread support, or with one shard, nothing overlaps") {
  const RunConfig config = make_config(SoftmaxParams{});
  CHECK_FALSE(plan_with(config, {make_layer(1000, 2, 2)}, 2).overlaps_io);
  const std::vector<LayerShape> two(2, make_layer(1000, 2, 2));
  CHECK(plan_with(config, two, 2).overlaps_io);
  CHECK_FALSE(plan_with(config, two, 2, std::size_t{1} << 40, false).overlaps_io);
}

TEST_CASE("a hybrid gives each mechanism its heads, in its own layout") {
  RunConfig config;
  config.assignments = {{SoftmaxParams{}, {0, 3}}, {StickBreakingParams{}, {1, 2}}};
  const RunPlan plan = plan_with(config, {make_layer(4096, 4, 2)}, 2);
  REQUIRE(plan.shards.size() == 2);
  CHECK(plan.shards[0].layout.kind() == LayoutKind::kContiguous);
  CHECK(plan.shards[0].heads == std::vector<int>{1, 2});
  CHECK(plan.shards[0].kv_heads == std::vector<int>{0, 1});
  CHECK(plan.shards[1].layout.kind() == LayoutKind::kZigzag);
  CHECK(plan.shards[1].heads == std::vector<int>{0, 3});
}

TEST_CASE("heads that are left out, out of range or given twice are refused") {
  const std::vector<LayerShape> layers{make_layer(64, 4, 4)};
  RunConfig config;
  config.assignments = {{SoftmaxParams{}, {0, 1}}, {StickBreakingParams{}, {3}}};
  CHECK_THROWS_WITH(plan_with(config, layers, 1), contains_text("head 2") && contains_text("no mechanism"));
  config.assignments[0].heads = {0, 1, 2, 7};
  CHECK_THROWS_WITH(plan_with(config, layers, 1), contains_text("head 7 does not exist"));
  config.assignments[0].heads = {0, 1, 2, 3};
  CHECK_THROWS_WITH(plan_with(config, layers, 1), contains_text("head 3 is given to two mechanisms"));
}

TEST_CASE("a scan's steps and bytes: by doubling, or all at once where a device's states are carried as they lie") {
  const RunConfig config = make_config(LinearParams{});
  const std::vector<LayerShape> layers{make_layer(4096, 2, 2)};
  const auto kernels = make_cpu_kernels();
  for (const bool carries_device : {false, true}) {
    const PlanResources resources{8, std::size_t{1} << 40, true, carries_device};
    const RunPlan plan = make_run_plan(config, layers, resources, *kernels);
    const PassPlan& pass = plan.shards.at(0).passes.at(0);
    CHECK(pass.ring_steps == (carries_device ? 7 : 3));
    CHECK(pass.moved_bytes == (carries_device ? 28u : 17u) * 2 * pass.state_bytes);
  }
}
