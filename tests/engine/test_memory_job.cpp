// Jobs over synthetic activations in memory: planned as those of files, and run over any number of ranks.

#include <unistd.h>

#include <filesystem>

#include "comm/local_transport.hpp"
#include "engine/memory_job.hpp"
#include "engine/synthetic_plan.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using ringscan::test::expect;
using ringscan::test::for_each_world;

namespace {

const std::vector<BlockMechanism> kBlocks = {SsmParams{}, MambaParams{}, ChelaParams{}};

LayerShape make_layer(std::int64_t seq_len, ElementType type) {
  LayerShape layer;
  layer.name = "0";
  layer.batch = 2;
  layer.seq_len = seq_len;
  layer.num_heads = 4;
  layer.num_kv_heads = 2;
  layer.head_dim = layer.v_dim = 16;
  layer.q_type = layer.kv_type = layer.o_type = type;
  return layer;
}

}  // namespace

TEST_CASE("a block of synthetic inputs is planned as run would plan the file of them") {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("ringscan_blocks_" + std::to_string(::getpid()) + ".h5")).string();
  const auto kernels = make_cpu_kernels();
  for (const BlockMechanism& mechanism : kBlocks) {
    INFO(std::string(name_of(mechanism)));
    const LayerShape layer = make_layer(203, ElementType::kBfloat16);
    const SyntheticBlockSizes sizes{8, 100};
    RunConfig config;
    config.blocks = {{mechanism, {}}};
    run_ranks(1, [&](Transport& transport) {
      const auto access = make_shared_file_access(transport);
      write_synthetic(*access, synthetic_block_spec(config.blocks[0], layer, sizes), path, true, [](double) {});
    });
    SoloGroup solo;
    const auto access = make_shared_file_access(solo);
    const ActivationReader reader(*access, path);
    for (const int world : {1, 5}) {
      const PlanResources resources{world, std::size_t{1} << 40, false};
      RunPlan of_file = make_run_plan(config, {}, resources, *kernels);
      plan_blocks(config, reader, of_file);
      const RunPlan plan = make_synthetic_plan(config, layer, sizes, resources, *kernels);
      REQUIRE(plan.blocks.size() == 1);
      REQUIRE(describe(plan.blocks[0]) == describe(of_file.blocks[0]));
      REQUIRE(plan.blocks[0].flops == of_file.blocks[0].flops);
      REQUIRE(plan.memory.total() == of_file.memory.total());
    }
  }
  std::filesystem::remove(path);
}

TEST_CASE("blocks in memory run over any number of ranks, alone and in a hybrid") {
  for_each_world([](Transport& transport) {
    const auto kernels = make_cpu_kernels();
    for (const bool reproducible : {false, true}) {
      for (std::size_t i = 0; i <= kBlocks.size(); ++i) {
        RunConfig config;
        config.reproducible = reproducible;
        if (i < kBlocks.size()) {
          config.blocks = {{kBlocks[i], {}}};
        } else {
          config.assignments = {{SoftmaxParams{}, {0}}};
          config.blocks = {{SsmParams{}, {1, 3}}, {ChelaParams{}, {2}}};
        }
        const LayerShape layer = make_layer(300, ElementType::kFloat32);
        MemoryJob job(config, layer, std::size_t{1} << 40, transport, *kernels, {8, 70});
        job.run();
        const RingPassResult result = job.run();
        double sums[] = {result.flops, static_cast<double>(result.sent_bytes)};
        transport.all_reduce(std::span<double>(sums), ReduceOp::kSum);
        expect(transport, sums[0] == Approx(job.plan().flops()));
        expect(transport, (sums[1] > 0.0) == (transport.world_size() > 1));
        expect(transport, result.compute_seconds > 0.0 || transport.world_size() > 1);
      }
    }
  });
}
