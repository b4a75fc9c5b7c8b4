#pragma once
// A made-up cluster to plan for: round numbers, so that tests can work out by hand what the plan should say.

#include "engine/cost_profile.hpp"
#include "engine/simulated_ranks.hpp"

namespace ringscan::test {

/// A processor for each rank.
inline ClusterShape make_shape(int world, int per_node = 4) {
  ClusterShape shape;
  shape.world_size = world;
  shape.ranks_per_node = shape.cores_per_node = per_node;
  shape.inside = {1e-5, 1e9, 1.0};
  shape.between = {5e-5, 1e8, 1.0};
  return shape;
}

/// Of a CPU; no kernels or blocks yet.
inline CostProfile make_bare_profile() {
  CostProfile profile;
  profile.backend = "cpu";
  profile.device = "none";
  profile.pack_bytes_per_second = 1e10;
  profile.inside = make_shape(1).inside;
  return profile;
}

}  // namespace ringscan::test
