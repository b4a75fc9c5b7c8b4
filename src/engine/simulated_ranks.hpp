#pragma once
// The ranks of a cluster that is not there: a clock each, moved on by what computing and transfers cost.

#include <cstddef>
#include <span>
#include <vector>

#include "engine/cost_profile.hpp"

namespace ringscan {

/// Ranks lie on nodes in their order, `ranks_per_node` each.
struct ClusterShape {
  int world_size = 1;
  int ranks_per_node = 1;
  int cores_per_node = 1;  ///< more ranks than these share them
  int nics_per_node = 1;   ///< flows that leave a node at once, without sharing a NIC
  LinkCost inside;
  LinkCost between;

  int node_of(int rank) const { return rank / ranks_per_node; }
  int nodes() const { return (world_size + ranks_per_node - 1) / ranks_per_node; }
  /// Ranks that compute at once on a node.
  int at_once() const;
  /// The same ranks with links that go one way at a time.
  ClusterShape one_way() const;
  /// A message; `flows` of them leave (and reach) the node at once.
  double transfer_seconds(int from, int to, double bytes, int flows) const;
  /// Of that, what takes the time of the ranks' processors.
  double copy_seconds(int from, int to, double bytes, int flows) const;
  /// A sum over all ranks, up a tree and down.
  double agree_seconds() const;
};

/// Where the time of the longest chain up to a rank's clock went: each moment waits for the last of what it needs.
struct Chain {
  double compute = 0.0;
  double inside = 0.0;   ///< transfers within nodes
  double between = 0.0;  ///< transfers between nodes
  double agree = 0.0;    ///< sums over all ranks
  double finish = 0.0;   ///< packing, rounding, writing rows
  int first_rank = 0;    ///< where it began
  int hops = 0;          ///< from rank to rank

  double seconds() const { return compute + inside + between + agree + finish; }
};

/// What all ranks have done so far. Seconds a rank.
struct SimulatedRanks {
  explicit SimulatedRanks(const ClusterShape& shape);

  ClusterShape shape;
  std::vector<double> clock;
  std::vector<double> compute;
  std::vector<double> exposed;
  std::vector<double> finish;
  std::vector<Chain> chain;
  double pairs = 0.0;           ///< of all heads, sum over ranks
  double useful_seconds = 0.0;  ///< pairs (linear: tokens) by the kernel's rate, sum over ranks
  double work_seconds = 0.0;    ///< what kernels take with a processor each, sum over ranks
  double inside_bytes = 0.0;
  double between_bytes = 0.0;
  int steps_taken = 0;
  int steps_saved = 0;

  int size() const { return shape.world_size; }
  /// Each rank is busy for work[rank] seconds, or longer where ranks share processors.
  void pass_compute(std::span<const double> work);
  void pass_finish(std::span<const double> work);
  /// A sum that all had started by `begun` has arrived everywhere.
  void agree(double begun, int slowest);
  void count_bytes(int from, int to, double bytes);
  double latest() const;
  int slowest() const;
};

/// How long each rank of a node takes for its work where all begin at once and share the processors evenly: `work` is
/// replaced. All as they are where there is a processor each.
void share_processors(std::span<double> work, int cores);
/// Likewise for all nodes.
void share_processors(const ClusterShape& shape, std::vector<double>& work);

}  // namespace ringscan
