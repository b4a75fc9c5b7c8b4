// plan's model of ssm, mamba and chela: their schedules walked, held to what few ranks do by hand.

#include <cmath>
#include <fstream>
#include <sstream>

#include "comm/halo_schedule.hpp"
#include "core/error.hpp"
#include "engine/long_conv_pass.hpp"
#include "engine/prediction.hpp"
#include "engine/simulate_block.hpp"
#include "engine/simulate_ring.hpp"
#include "engine/simulate_scan.hpp"
#include "engine/synthetic_plan.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/cluster_costs.hpp"

using namespace ringscan;
using ringscan::test::contains_text;
using ringscan::test::make_bare_profile;
using ringscan::test::make_shape;

namespace {

BlockCost make_cost(const std::string& mechanism, std::int64_t channels) {
  BlockCost cost;
  cost.token.mechanism = mechanism;
  cost.token.head_dim = channels;
  cost.token.call_seconds = 1e-4;
  cost.token.row_seconds = 1e-6;
  cost.behind = mechanism == "ssm" ? 0.0 : 0.25;
  (mechanism == "chela" ? cost.taps : cost.states) = mechanism == "chela" ? 500 : 16;
  if (mechanism == "chela") {
    cost.token.state_row_seconds = 1e-7;
    cost.lines_row_seconds = 2e-6;
  } else {
    cost.incoming_row_seconds = 5e-7;
    cost.incoming_rows = 700;
  }
  return cost;
}

CostProfile make_profile() {
  CostProfile profile = make_bare_profile();
  for (const char* name : {"ssm", "mamba", "chela"}) {
    profile.blocks.push_back(make_cost(name, 128));
    profile.blocks.push_back(make_cost(name, 64));
  }
  KernelCost softmax;
  softmax.mechanism = "softmax";
  softmax.head_dim = 32;
  softmax.pair_seconds = 1e-9;
  profile.kernels.push_back(softmax);
  return profile;
}

LayerShape make_layer(std::int64_t seq_len) {
  LayerShape layer;
  layer.batch = 1;
  layer.seq_len = seq_len;
  layer.num_heads = layer.num_kv_heads = 4;
  layer.head_dim = layer.v_dim = 32;
  return layer;
}

RunConfig config_of(const BlockMechanism& mechanism) {
  RunConfig config;
  config.blocks = {{mechanism, {}}};
  return config;
}

RunPlan plan_of(const RunConfig& config, const LayerShape& layer, int world) {
  return make_synthetic_plan(config, layer, {16, 500}, {world, std::size_t{1} << 50, false}, *make_cpu_kernels());
}

Prediction predict_for(const RunConfig& config, const LayerShape& layer, int world, const CostProfile& profile,
                       int per_node = 64) {
  const RunPlan plan = plan_of(config, layer, world);
  return predict({&plan, &config, &profile, make_shape(world, per_node), {}, 2});
}

}  // namespace

TEST_CASE("a halo comes from as many ranks as it reaches over; the last of them is waited for") {
  const SequenceLayout layout(LayoutKind::kContiguous, 40, 4, 1);
  const ClusterShape shape = make_shape(4, 2);
  SimulatedRanks ranks(shape);
  ranks.clock = {0.5, 0.0, 0.0, 0.25};
  simulate_halo(layout, 25, 1e5, ranks);
  const double inside = 1e-5 + 10 * 1e5 / 1e9;
  // Each rank but the last gives its tokens to all behind it that reach so far; two are gone through by a NIC at once
  // where they go two ranks on.
  const double near = 5e-5 + 10 * 1e5 / 1e8, far = 5e-5 + 2 * 10 * 1e5 / 1e8, part = 5e-5 + 2 * 5 * 1e5 / 1e8;
  CHECK(ranks.clock[0] == Approx(0.5 + std::max({inside, far, part})));
  CHECK(ranks.clock[1] == Approx(std::max({0.5 + inside, near, 0.25 + far})));
  CHECK(ranks.clock[2] == Approx(std::max({0.5 + far, near, 0.25 + inside})));
  CHECK(ranks.clock[3] == Approx(std::max({0.5 + part, 0.25 + far, 0.25 + inside})));
  CHECK(ranks.inside_bytes == Approx(20e5));
  CHECK(ranks.between_bytes == Approx((10 + 10 + 10 + 5) * 1e5));
  for (std::size_t rank = 1; rank < 3; ++rank) CHECK(ranks.exposed[rank] == Approx(ranks.clock[rank]));
}

TEST_CASE("an all-to-all waits for all, and moves all but each rank's own share there and back") {
  const SequenceLayout layout(LayoutKind::kContiguous, 400, 4, 1);
  SimulatedRanks ranks(make_shape(4, 4));
  ranks.clock = {0.0, 0.0, 2.0, 0.0};
  simulate_all_to_all(layout, 3.0, 1e4, ranks);
  for (const double clock : ranks.clock) CHECK(clock == Approx(2.0 + 2 * 3 * (3 * 1e-5 + 100 * 1e4 / 4 / 1e9)));
  CHECK(ranks.inside_bytes == Approx(2.0 * 400 * 1e4 * 3 / 4));
  // Of two nodes of two ranks, both of a node share its NIC.
  SimulatedRanks spread(make_shape(4, 2));
  simulate_all_to_all(layout, 1.0, 1e4, spread);
  CHECK(spread.clock[0] == Approx(2 * (1e-5 + 100 * 1e4 / 4 / 1e9) + 4 * (5e-5 + 2 * 100 * 1e4 / 4 / 1e8)));
  CHECK(spread.chain[1].seconds() == Approx(spread.clock[1]));
}

TEST_CASE("a selective scan: every rank scans, states go up a logarithm of steps, what they reach is added") {
  const CostProfile profile = make_profile();
  for (const int world : {1, 2, 8, 16}) {
    const Prediction found = predict_for(config_of(SsmParams{}), make_layer(16384), world, profile);
    const double tokens = 16384.0 / world;
    const double hop = profile.inside->seconds(128 * 17 * 4);
    const double added = world > 1 ? std::min(tokens, 700.0) * 5e-7 : 0.0;
    CHECK(found.seconds == Approx(1e-4 + tokens * 1e-6 + std::log2(world) * hop + added));
    CHECK(found.compute_seconds == Approx(1e-4 + tokens * 1e-6 + added));
    CHECK(found.steps_taken == static_cast<int>(std::log2(world)));
    CHECK(found.flops == Approx(8.0 * 16384 * 128 * 16));
    CHECK(found.chain.seconds() == Approx(found.seconds));
    double shares = 0.0;
    for (const double share : {found.shares.useful, found.shares.crowding, found.shares.small, found.shares.sharing,
                               found.shares.exposed, found.shares.finish, found.shares.idle, found.shares.files}) {
      shares += share;
    }
    CHECK(shares == Approx(1.0));
  }
  // In order, channels follow each other from rank to rank: 8 blocks of 16, and a rank more for each of these.
  RunConfig in_order = config_of(SsmParams{});
  in_order.reproducible = true;
  const Prediction found = predict_for(in_order, make_layer(16384), 4, profile);
  const double rank = 1e-4 + 4096e-6;
  CHECK(found.seconds == Approx(rank + 3 * (rank / 8 + profile.inside->seconds(16 * 16 * 4))));
}

TEST_CASE("mamba: its halo and its scan are waited for, the rest is computed where it stands") {
  const CostProfile profile = make_profile();
  const Prediction found = predict_for(config_of(MambaParams{}), make_layer(16384), 4, profile);
  const double halo = profile.inside->seconds(3 * 256 * 4), hop = profile.inside->seconds(256 * 17 * 4);
  CHECK(found.seconds == Approx(halo + 1e-4 + 4096e-6 + 2 * hop + 700 * 5e-7));
  CHECK(predict_for(config_of(MambaParams{}), make_layer(16384), 1, profile).exposed_seconds == 0.0);
}

TEST_CASE("chela: a halo where shards are long, an all-to-all where they are short") {
  const CostProfile profile = make_profile();
  const auto linear_state = [](const RunPlan& plan) { return static_cast<double>(plan.blocks[0].state_bytes) / 2; };
  const RunConfig config = config_of(ChelaParams{});
  const RunPlan plan = plan_of(config, make_layer(16384), 4);
  const double short_halo = profile.inside->seconds(3 * 128 * 4), long_halo = profile.inside->seconds(499 * 128 * 4);
  const double hop = profile.inside->seconds(linear_state(plan));
  // Two heads: the second one's sum is in hand while the first one's state is under way.
  const double sum = 4096e-7 / 2;
  REQUIRE(choose_long_conv(plan.blocks[0].layout, 500, false) == LongConvMethod::kHalo);
  const double computed = 1e-4 + 4096e-6;
  CHECK(
      predict_for(config, make_layer(16384), 4, profile).seconds ==
      Approx(short_halo + long_halo + computed + 2 * sum + std::max(0.0, 2 * hop - 0.25 * computed / 2)).epsilon(0.02));
  // Where a device has the states each rank gives its own to all behind it: 3 + 2 + 1 messages a head, not 3 + 2.
  CostProfile device = profile;
  device.sends_from_shard = true;
  CHECK(predict_for(config, make_layer(16384), 4, device).inside_bytes ==
        Approx(predict_for(config, make_layer(16384), 4, profile).inside_bytes + 2 * linear_state(plan)));
  const RunPlan cut = plan_of(config, make_layer(1600), 4);
  REQUIRE(choose_long_conv(cut.blocks[0].layout, 500, false) == LongConvMethod::kAllToAll);
  const Prediction lines = predict_for(config, make_layer(1600), 4, profile);
  CHECK(lines.compute_seconds == Approx(1e-4 + 400 * (2e-6 + 1e-7)).epsilon(0.01));
  CHECK(lines.inside_bytes > 2.0 * 1600 * 128 * 4 * 3 / 4);
}

TEST_CASE("blocks beside heads, files beside blocks, and costs that are not there") {
  CostProfile profile = make_profile();
  RunConfig config;
  config.assignments = {{SoftmaxParams{}, {0, 1}}};
  config.blocks = {{SsmParams{}, {2, 3}}};
  const LayerShape layer = make_layer(4096);
  const RunPlan hybrid = plan_of(config, layer, 2);
  const double block = 1e-4 + 2048e-6 + 700 * 5e-7 + profile.inside->seconds(64 * 17 * 4);
  const double found = predict_for(config, layer, 2, profile).seconds;
  CHECK(found > block);
  CHECK(hybrid.memory.total() > 0);
  profile.read_bytes_per_second = profile.write_bytes_per_second = 1e9;
  const Prediction with_files = predict_for(config_of(MambaParams{}), layer, 2, profile);
  CHECK(with_files.read_seconds == Approx(4096.0 * 128 * 4 / 1e9));
  CHECK(with_files.write_seconds == Approx(4096.0 * 128 * 4 / 1e9));
  profile.blocks.erase(profile.blocks.begin());
  CHECK_THROWS_WITH(predict_for(config_of(SsmParams{}), layer, 2, profile),
                    contains_text("the profile has no cost of ssm, float32, 128 channels, 16 states: it has ssm, "
                                  "float32, 64 channels, 16 states; mamba"));
}

TEST_CASE("linear heads of one state go together; kept summaries are not repeated") {
  const SequenceLayout layout(LayoutKind::kContiguous, 6400, 4, 64);
  SimulatedLinear linear;
  linear.layout = &layout;
  linear.heads = 6;
  linear.state_bytes = 1e5;
  linear.cost.call_seconds = 1e-5;
  linear.cost.row_seconds = 1e-7;
  linear.cost.state_row_seconds = 4e-8;
  const ClusterShape shape = make_shape(4, 4);
  const double sum = 6 * 1600 * 4e-8, output = 6 * 1600 * 1e-7;
  const auto seconds = [&] {
    SimulatedRanks ranks(shape);
    simulate_linear(linear, ranks);
    return ranks.latest();
  };
  CHECK(seconds() == Approx(12e-5 + sum + output));  // what is under way hides behind further heads
  linear.heads_a_state = 64;
  CHECK(seconds() == Approx(2e-5 + sum + 2 * shape.inside.seconds(6e5) + output));
  linear.keeps_summaries = true;
  CHECK(seconds() == Approx(1e-5 + 2 * shape.inside.seconds(6e5) + output));
  const SequenceLayout whole(LayoutKind::kContiguous, 6400, 1, 64);
  linear.layout = &whole;
  SimulatedRanks alone(make_shape(1, 1));
  simulate_linear(linear, alone);
  CHECK(alone.latest() == Approx(1e-5 + 4 * output));
}

TEST_CASE("costs of blocks are read as they were written; a profile from before them has none") {
  const CostProfile profile = make_profile();
  CostProfile again = parse_cost_profile(to_json(profile), "p.json");
  CHECK(to_json(again) == to_json(profile));
  CHECK(again.block("chela", ElementType::kFloat32, 64, 0, 500, 2).lines_row_seconds == 2e-6);
  again.blocks[0].behind = 1.5;
  CHECK_THROWS_WITH(parse_cost_profile(to_json(again), "p.json"), contains_text("behind of ssm is over 1"));
  std::ifstream file(RINGSCAN_PROFILES "/h100-nvlink.json");
  std::ostringstream text;
  text << file.rdbuf();
  const CostProfile before = parse_cost_profile(text.str(), "h100-nvlink.json");
  CHECK(before.blocks.empty());
  CHECK(before.linear_heads_a_state == 1);
  CHECK(!before.linear_keeps_summaries);
}

TEST_CASE("a link that goes one way alone has the rate measured so") {
  SimulatedRing ring;
  ring.band = {0, Band::kUnbounded};
  ring.token_bytes = 1e4;
  ring.pack_bytes_per_second = HUGE_VAL;
  const auto seconds = [&](LayoutKind kind, int world, double one_way_rate) {
    const SequenceLayout layout(kind, 1000 * world, world, 1);
    ring.layout = &layout;
    ClusterShape shape = make_shape(world, 8);
    shape.inside.one_way_bytes_per_second = one_way_rate;
    SimulatedRanks ranks(shape);
    simulate_ring(ring, ranks);
    return ranks.latest();
  };
  CHECK(seconds(LayoutKind::kContiguous, 2, 0.0) == Approx(1e-5 + 1e7 / 1e9));
  CHECK(seconds(LayoutKind::kContiguous, 2, 2e9) == Approx(1e-5 + 1e7 / 2e9));
  // Both ways; of more ranks the last step's transfer alone has its link for itself.
  CHECK(seconds(LayoutKind::kZigzag, 2, 2e9) == Approx(1e-5 + 1e7 / 1e9));
  CHECK(seconds(LayoutKind::kContiguous, 4, 2e9) == Approx(3e-5 + 2.5e7 / 1e9));
}
