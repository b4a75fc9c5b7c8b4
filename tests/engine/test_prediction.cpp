// plan: schedules walked with a profile's costs. No ranks, no clocks but simulated ones.

#include <cmath>
#include <functional>
#include <map>

#include "core/error.hpp"
#include "engine/prediction.hpp"
#include "engine/simulate_ring.hpp"
#include "engine/simulate_scan.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/cluster_costs.hpp"

using namespace ringscan;
using ringscan::test::contains_text;
using ringscan::test::make_bare_profile;
using ringscan::test::make_shape;

namespace {

KernelCost make_cost(const std::string& mechanism) {
  KernelCost cost;
  cost.mechanism = mechanism;
  cost.head_dim = 64;
  cost.call_seconds = 1e-5;
  cost.row_seconds = 1e-8;
  cost.pair_seconds = 1e-9;
  cost.pass_seconds = 2e-5;
  cost.finish_row_seconds = 3e-8;
  cost.state_row_seconds = 5e-9;
  return cost;
}

CostProfile make_profile() {
  CostProfile profile = make_bare_profile();
  for (const char* name : {"softmax", "stick-breaking", "cog", "sparse-window", "sparse-topk", "linear"}) {
    profile.kernels.push_back(make_cost(name));
  }
  return profile;
}

SimulatedRing make_ring(const SequenceLayout& layout, const Band& band) {
  SimulatedRing ring;
  ring.layout = &layout;
  ring.band = band;
  ring.heads = 3.0;
  ring.token_bytes = 3 * 128 * 4;
  ring.cost = make_cost("softmax");
  ring.pack_bytes_per_second = 1e10;
  ring.piece_keys = 256;
  return ring;
}

/// The same, written as who waits for whom: each rank's schedule whole, moments found by recursion.
class Recursion {
 public:
  Recursion(const SimulatedRing& ring, const ClusterShape& shape) : ring_(ring), shape_(shape) {
    for (int rank = 0; rank < shape.world_size; ++rank) {
      schedules_.push_back(make_ring_schedule(*ring.layout, ring.band, rank, ring.reach));
    }
  }
  double end(int rank) {
    return at(rank, static_cast<int>(schedules_[0].size())) + ring_.cost.pass_seconds +
           static_cast<double>(ring_.layout->local_tokens(rank)) * ring_.heads * ring_.cost.finish_row_seconds;
  }

 private:
  double bytes(int kv_rank) const {
    return static_cast<double>(ring_.layout->local_tokens(kv_rank)) * ring_.token_bytes;
  }
  /// When the rank begins step `index`.
  double at(int rank, int index) {
    const auto known = moments_.find({rank, index});
    if (known != moments_.end()) return known->second;
    double moment = 0.0;
    if (index == 0) {
      if (schedules_[static_cast<std::size_t>(rank)][0].send_to >= 0)
        moment = bytes(rank) / ring_.pack_bytes_per_second;
    } else {
      const RingStep& step = schedules_[static_cast<std::size_t>(rank)][static_cast<std::size_t>(index - 1)];
      const double begin = at(rank, index - 1);
      moment = begin + compute(rank, step);
      if (step.recv_from >= 0) {
        moment = std::max(moment, std::max(begin, at(step.recv_from, index - 1)) +
                                      shape_.transfer_seconds(step.recv_from, rank, bytes(step.next_kv_rank), 1));
      }
      if (step.send_to >= 0) {
        moment = std::max(moment, std::max(begin, at(step.send_to, index - 1)) +
                                      shape_.transfer_seconds(rank, step.send_to, bytes(step.kv_rank), 1));
      }
    }
    return moments_[{rank, index}] = moment;
  }
  double compute(int rank, const RingStep& step) const {
    double seconds = 0.0;
    for (const RingPart& part : step.parts) {
      const TokenRun queries = ring_.layout->chunks(rank)[static_cast<std::size_t>(part.query_chunk)].run;
      const TokenRun keys = ring_.layout->chunks(step.kv_rank)[static_cast<std::size_t>(part.key_chunk)].run;
      const KernelPoint work = work_of(part.band, ring_.reach, queries, keys, ring_.piece_keys);
      seconds += work.calls * ring_.cost.call_seconds +
                 ring_.heads * (work.rows * ring_.cost.row_seconds + work.pairs * ring_.cost.pair_seconds);
    }
    return seconds;
  }

  const SimulatedRing& ring_;
  const ClusterShape& shape_;
  std::vector<RingSchedule> schedules_;
  std::map<std::pair<int, int>, double> moments_;
};

LayerShape make_layer(std::int64_t seq_len, int heads, int kv_heads) {
  LayerShape layer;
  layer.batch = 1;
  layer.seq_len = seq_len;
  layer.num_heads = heads;
  layer.num_kv_heads = kv_heads;
  layer.head_dim = layer.v_dim = 64;
  return layer;
}

Prediction predict_for(const RunConfig& config, const LayerShape& layer, int world, const CostProfile& profile,
                       std::optional<StickReachQuantiles> reach = {}, int groups_walked = 2, int per_node = 4) {
  const RunPlan plan = make_run_plan(config, {layer}, {world, std::size_t{1} << 50, true}, *make_cpu_kernels());
  return predict({&plan, &config, &profile, make_shape(world, per_node), reach, groups_walked});
}

}  // namespace

TEST_CASE("a profile is read as it was written; what it lacks is named") {
  CostProfile profile = make_profile();
  profile.between = LinkCost{1e-5, 2e9, 0.5};
  profile.sends_from_shard = true;
  profile.kernels[0].at_once = 4;
  profile.kernels[1].exit_corrections = {{1e-4, 2.0}, {1e-2, 1.0}};
  profile.kernels[1].rest_corrections = {{1e-3, 0.5}, {1e-1, 1.5}};
  profile.kernels.push_back(make_cost("softmax"));
  profile.kernels.back().pair_seconds = 7e-9;
  const CostProfile again = parse_cost_profile(to_json(profile), "p.json");
  CHECK(to_json(again) == to_json(profile));
  CHECK(again.kernel("softmax", ElementType::kFloat32, 64, 8).pair_seconds == 1e-9);
  CHECK(again.kernel("softmax", ElementType::kFloat32, 64, 3).pair_seconds == 7e-9);
  CHECK_THROWS_WITH(again.kernel("softmax", ElementType::kBfloat16, 64, 1),
                    contains_text("no cost of softmax, bfloat16"));
  CHECK_THROWS_WITH(parse_cost_profile("{}", "p.json"), contains_text("p.json: is no profile"));
  CHECK_THROWS_AS(parse_cost_profile("{\"ringscan_profile\": 1", "p.json"), Error);
}

TEST_CASE("what a pass takes beside its kernels is corrected by its size") {
  KernelCost cost;
  cost.pass_seconds = 1e-4;
  cost.finish_row_seconds = 1e-6;
  CHECK(cost.rest_seconds(900.0) == Approx(1e-3));
  cost.rest_corrections = {{1e-3, 0.5}, {1e-1, 1.5}};
  CHECK(cost.rest_seconds(0.0) == Approx(0.5e-4));  // smaller than measured: as there
  CHECK(cost.rest_seconds(900.0) == Approx(0.5e-3));
  CHECK(cost.rest_seconds(9900.0) == Approx(1e-2));  // halfway between the two, by the logarithm
  CHECK(cost.rest_seconds(999900.0) == Approx(1.5));
}

TEST_CASE("ranks that share processors take turns evenly") {
  std::vector<double> work{3.0, 1.0, 0.0, 1.0};
  share_processors(std::span<double>(work), 2);
  // Three are busy at two thirds until 1.5; then one is left, with 2 to do.
  CHECK(work[1] == Approx(1.5));
  CHECK(work[3] == Approx(1.5));
  CHECK(work[2] == 0.0);
  CHECK(work[0] == Approx(3.5));
  std::vector<double> enough{3.0, 1.0};
  share_processors(std::span<double>(enough), 2);
  CHECK(enough == std::vector<double>{3.0, 1.0});
}

TEST_CASE("the walk over a ring gives each rank the moment that its waiting gives") {
  const auto unbounded = Band::kUnbounded;
  for (const int world : {1, 2, 3, 5, 8, 9}) {
    for (const LayoutKind kind : {LayoutKind::kContiguous, LayoutKind::kZigzag}) {
      for (const std::int64_t seq_len : {3, 1000, 4097}) {
        for (const Band& band : {Band{0, unbounded}, Band{1, unbounded}, Band{0, 299}, Band{-unbounded, unbounded}}) {
          const SequenceLayout layout(kind, seq_len, world, seq_len > 4000 ? 64 : 1);
          const SimulatedRing ring = make_ring(layout, band);
          const ClusterShape shape = make_shape(world);
          SimulatedRanks ranks(shape);
          simulate_ring(ring, ranks);
          Recursion recursion(ring, shape);
          std::int64_t moved = 0;
          for (int rank = 0; rank < world; ++rank) {
            CHECK(ranks.clock[static_cast<std::size_t>(rank)] == Approx(recursion.end(rank)).epsilon(1e-9));
            // The chain is whole: all of the time is somebody's.
            CHECK(ranks.chain[static_cast<std::size_t>(rank)].seconds() ==
                  Approx(ranks.clock[static_cast<std::size_t>(rank)]).epsilon(1e-9));
            for (const RingStep& step : make_ring_schedule(layout, band, rank)) {
              if (step.send_to >= 0) moved += layout.local_tokens(step.kv_rank);
            }
          }
          CHECK(ranks.inside_bytes + ranks.between_bytes == Approx(static_cast<double>(moved) * ring.token_bytes));
          CHECK(RingRoutes(layout, band).moved_tokens() == moved);
        }
      }
    }
  }
}

TEST_CASE("causal imbalance shows under the contiguous layout, and zigzag evens it out") {
  RunConfig config;
  config.assignments = {{SoftmaxParams{}, {}}};
  const CostProfile profile = make_profile();
  const Prediction zigzag = predict_for(config, make_layer(65536, 2, 2), 8, profile, {}, 2, 8);
  config.layout = LayoutKind::kContiguous;
  const Prediction contiguous = predict_for(config, make_layer(65536, 2, 2), 8, profile, {}, 2, 8);
  // The last rank has 15/8 of the mean.
  CHECK(contiguous.seconds / zigzag.seconds == Approx(1.875).epsilon(0.05));
  CHECK(contiguous.shares.idle > 0.3);
  CHECK(zigzag.shares.idle < 0.02);
  CHECK(contiguous.slowest_rank == 7);
  const Prediction::Shares& s = zigzag.shares;
  CHECK(s.useful + s.crowding + s.small + s.sharing + s.exposed + s.finish + s.idle + s.files == Approx(1.0));
  CHECK(zigzag.flops == Approx(4.0 * 64 * 2 * 65536.0 * 65537.0 / 2));
}

TEST_CASE("a link binds where computing no longer hides it, and is named") {
  RunConfig config;
  config.assignments = {{SoftmaxParams{}, {}}};
  const CostProfile profile = make_profile();
  const RunPlan plan =
      make_run_plan(config, {make_layer(4096, 2, 2)}, {2, std::size_t{1} << 50, true}, *make_cpu_kernels());
  ClusterShape shape = make_shape(2, 1);
  shape.between.bytes_per_second = 1e10;
  const Prediction fast = predict({&plan, &config, &profile, shape, {}, 2});
  CHECK(fast.exposed_seconds < 0.02 * fast.seconds);
  shape.between.bytes_per_second = 2e7;
  const Prediction slow = predict({&plan, &config, &profile, shape, {}, 2});
  // One hop, half of the computing to hide it behind.
  const double link = shape.between.seconds(static_cast<double>(plan.moved_bytes()) / 2);
  CHECK(slow.exposed_seconds == Approx(link - fast.compute_seconds / 2).epsilon(0.02));
  CHECK(slow.largest_loss == "the link between nodes");
  CHECK(slow.chain.between > 0.0);
}

TEST_CASE("a copy by the ranks' own processors hides behind nothing") {
  const SequenceLayout layout(LayoutKind::kZigzag, 4096, 2, 64);
  SimulatedRing ring = make_ring(layout, {0, Band::kUnbounded});
  ClusterShape shape = make_shape(2);
  SimulatedRanks hidden(shape);
  simulate_ring(ring, hidden);
  shape.inside.hidden = 0.0;
  SimulatedRanks copied(shape);
  simulate_ring(ring, copied);
  CHECK(copied.latest() - hidden.latest() == Approx(2048 * ring.token_bytes / 1e9).epsilon(1e-6));
}

TEST_CASE("keys that are sent from the shard are not packed, those of some heads are") {
  RunConfig config;
  config.assignments = {{SoftmaxParams{}, {}}};
  CostProfile profile = make_profile();
  profile.pack_bytes_per_second = 1e7;  // of 1024 tokens' k and v, 2 heads of 64, 4 bytes an element: 0.1 s
  const double pack = 1024.0 * 2 * 2 * 64 * 4 / profile.pack_bytes_per_second;
  const double packed = predict_for(config, make_layer(2048, 2, 2), 2, profile).seconds;
  config.kv_heads_at_once = 1;
  const double in_groups = predict_for(config, make_layer(2048, 2, 2), 2, profile).seconds;
  profile.sends_from_shard = true;
  CHECK(predict_for(config, make_layer(2048, 2, 2), 2, profile).seconds == Approx(in_groups));
  config.kv_heads_at_once = 0;
  CHECK(predict_for(config, make_layer(2048, 2, 2), 2, profile).seconds == Approx(packed - pack));
}

TEST_CASE("head groups that are alike: the walked ones speak for the others") {
  RunConfig config;
  config.assignments = {{SoftmaxParams{}, {}}};
  config.kv_heads_at_once = 1;
  CostProfile profile = make_profile();
  for (const int world : {2, 7, 16}) {
    for (const double rate : {1e9, 1e7}) {
      profile.inside->bytes_per_second = rate;
      const LayerShape layer = make_layer(10007, 12, 6);
      const Prediction whole = predict_for(config, layer, world, profile, {}, 6);
      const Prediction part = predict_for(config, layer, world, profile);
      CHECK(part.seconds == Approx(whole.seconds).epsilon(0.01));
      CHECK(part.exposed_seconds == Approx(whole.exposed_seconds).epsilon(0.03));
      CHECK(part.inside_bytes == Approx(whole.inside_bytes));
      CHECK(part.steps_taken == whole.steps_taken);
    }
  }
}

TEST_CASE("early exit ends the ring, sooner where sticks are short") {
  RunConfig config;
  config.assignments = {{StickBreakingParams{}, {}}};
  const CostProfile profile = make_profile();
  const LayerShape layer = make_layer(65536, 2, 2);
  const Prediction all = predict_for(config, layer, 16, profile);
  const Prediction far = predict_for(config, layer, 16, profile, StickReachQuantiles{900.0, 3000.0});
  const Prediction near = predict_for(config, layer, 16, profile, StickReachQuantiles{40.0, 100.0});
  CHECK(all.steps_taken == 16);
  CHECK(near.steps_taken == 2);  // the nearest keys suffice, and no shard moves
  CHECK(near.between_bytes < 0.2 * far.between_bytes);
  CHECK((near.steps_taken < far.steps_taken && far.steps_taken < 16));
  CHECK(near.seconds < far.seconds);
  CHECK(far.seconds < all.seconds);
  CHECK(near.flops < 0.05 * all.flops);
  config.layout = LayoutKind::kZigzag;
  CHECK_THROWS_AS(predict_for(config, layer, 16, profile, StickReachQuantiles{40.0, 100.0}), Error);
}

TEST_CASE("a scan is as deep as the logarithm of the ranks, or as long as they are many") {
  for (const int world : {2, 3, 8, 100}) {
    const SequenceLayout layout(LayoutKind::kContiguous, 6400, world, 64);
    SimulatedScan scan;
    scan.layout = &layout;
    scan.state_bytes = 1e6;
    ClusterShape shape = make_shape(world, world);
    SimulatedRanks ranks(shape);
    simulate_scan(scan, ranks);
    const double hop = shape.inside.seconds(1e6);
    CHECK(ranks.latest() == Approx(std::ceil(std::log2(world)) * hop));
    CHECK(ranks.chain[static_cast<std::size_t>(ranks.slowest())].seconds() == Approx(ranks.latest()));
    scan.kind = ScanKind::kSerial;
    SimulatedRanks serial(shape);
    simulate_scan(scan, serial);
    CHECK(serial.latest() == Approx((world - 1) * hop));
    // All at once: the bytes of all before the last rank, one latency.
    scan.kind = ScanKind::kDirect;
    SimulatedRanks direct(shape);
    simulate_scan(scan, direct);
    const double latency = shape.inside.seconds(0.0);
    CHECK(direct.latest() == Approx(latency + (world - 1) * (hop - latency)));
    CHECK(direct.inside_bytes == Approx(1e6 * world * (world - 1) / 2));
    // Flows from one node to the next share its NIC.
    scan.kind = ScanKind::kLogarithmic;
    shape = make_shape(world, 4);
    SimulatedRanks spread(shape);
    simulate_scan(scan, spread);
    if (world >= 8) CHECK(spread.latest() > 4.0 * 1e6 / shape.between.bytes_per_second);
  }
}

TEST_CASE("ranks that share processors keep them busy: their work together, by the processors") {
  // As measured (docs/scaling.md): 8 ranks on 2 processors take no more of these but for what 8 ranks do more.
  CostProfile profile = make_profile();
  ClusterShape shape = make_shape(2, 8);
  shape.cores_per_node = 2;
  shape.inside = {1e-7, 1e12, 1.0};
  const auto seconds_of = [&](const Mechanism& mechanism, int world) {
    RunConfig config;
    config.assignments = {{mechanism, {}}};
    const RunPlan plan =
        make_run_plan(config, {make_layer(65536, 3, 3)}, {world, std::size_t{1} << 50, true}, *make_cpu_kernels());
    shape.world_size = world;
    return predict({&plan, &config, &profile, shape, StickReachQuantiles{21.0, 29.0}, 2}).seconds;
  };
  const KernelCost cost = make_cost("linear");
  for (const int world : {4, 8}) {
    const double sharing = seconds_of(StickBreakingParams{}, world) / seconds_of(StickBreakingParams{}, 2);
    CHECK((sharing > 0.9 && sharing < 1.03));
    // Every rank but the last sums up states before it has output.
    const double states =
        3 * (65536.0 * (world - 1) / world * cost.state_row_seconds + (world - 1) * cost.call_seconds);
    const double outputs = 3 * (65536.0 * (cost.row_seconds + cost.finish_row_seconds) + world * cost.call_seconds);
    const double work = states + outputs + world * cost.pass_seconds;
    CHECK(seconds_of(LinearParams{}, world) == Approx(work / 2).epsilon(0.01));
  }
}

TEST_CASE("linear heads, sparse heads and a hybrid are predicted") {
  const CostProfile profile = make_profile();
  const LayerShape layer = make_layer(20000, 6, 3);
  RunConfig config;
  config.assignments = {{SoftmaxParams{}, {0, 1}}, {LinearParams{}, {2, 3}}, {SparseParams{}, {4, 5}}};
  const Prediction hybrid = predict_for(config, layer, 8, profile);
  double apart = 0.0;
  for (const Mechanism& mechanism :
       {Mechanism{SoftmaxParams{}}, Mechanism{LinearParams{}}, Mechanism{SparseParams{}}}) {
    RunConfig alone;
    alone.assignments = {{mechanism, {}}};
    apart += predict_for(alone, make_layer(20000, 2, 1), 8, profile).seconds;
  }
  CHECK(hybrid.seconds == Approx(apart).epsilon(0.03));
  CHECK(predict_for(config, layer, 1, profile).exposed_seconds == 0.0);
}

TEST_CASE("files are read and written at the profile's rates, beside computing where shards allow it") {
  CostProfile profile = make_profile();
  RunConfig config;
  config.assignments = {{SoftmaxParams{}, {}}};
  const LayerShape layer = make_layer(8192, 2, 2);
  const double without = predict_for(config, layer, 2, profile).seconds;
  profile.read_bytes_per_second = 1e8;
  profile.write_bytes_per_second = 5e7;
  const Prediction with = predict_for(config, layer, 2, profile);
  CHECK(with.read_seconds == Approx(3 * 8192 * 2 * 64 * 4 / 1e8));
  CHECK(with.write_seconds == Approx(8192 * 2 * 64 * 4 / 5e7));
  CHECK(with.seconds == Approx(without + with.read_seconds + with.write_seconds));
}
