#pragma once
// How long a planned run takes on a cluster, by walking its schedules with a profile's costs.

#include <optional>
#include <string>

#include "engine/run_plan.hpp"
#include "engine/simulated_ranks.hpp"

namespace ringscan {

/// A quantity of rows' stick reach, as `analyze` measures it.
struct StickReachQuantiles {
  double median = 0.0;
  double percentile_99 = 0.0;
};

struct PredictionRequest {
  const RunPlan* plan = nullptr;
  const RunConfig* config = nullptr;
  const CostProfile* profile = nullptr;
  ClusterShape shape;  ///< of the plan's world size
  std::optional<StickReachQuantiles> reach;
  /// Of head groups alike, as many are walked step by step; each further one adds what the last of them added. At least
  /// 1.
  int groups_walked = 2;
};

struct Prediction {
  double seconds = 0.0;
  double compute_seconds = 0.0;  ///< of the slowest rank each, as these three
  double exposed_seconds = 0.0;
  double finish_seconds = 0.0;
  double read_seconds = 0.0;   ///< that no computing hides
  double write_seconds = 0.0;  ///< likewise
  double inside_bytes = 0.0;   ///< over all ranks
  double between_bytes = 0.0;
  int steps_taken = 0;
  int steps_saved = 0;
  double flops = 0.0;  ///< useful ones, of pairs that early exit leaves
  int slowest_rank = 0;
  Chain chain;  ///< that the slowest rank ends
  /// Shares of world_size x seconds; together 1.
  struct Shares {
    double useful = 0.0;    ///< pairs and tokens at the kernels' rate with one rank on a node
    double crowding = 0.0;  ///< that kernels are slower with several on a node
    double small = 0.0;     ///< kernels' costs a call and a row
    double sharing = 0.0;   ///< ranks that wait for a processor of their node
    double exposed = 0.0;   ///< transfers and waiting for neighbours
    double finish = 0.0;
    double idle = 0.0;  ///< done before the slowest rank
    double files = 0.0;
  } shares;
  std::string binds;         ///< computing, or the largest loss where that is more, in words
  std::string largest_loss;  ///< in words
};

/// @throws Error(kBadInput) where the profile lacks a cost, or the run has something no model is there for.
Prediction predict(const PredictionRequest& request);

}  // namespace ringscan
