#include "engine/simulated_ranks.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace ringscan {

int ClusterShape::at_once() const {
  return std::min({world_size, ranks_per_node, cores_per_node});
}

ClusterShape ClusterShape::one_way() const {
  ClusterShape shape = *this;
  shape.inside = inside.one_way();
  shape.between = between.one_way();
  return shape;
}

double ClusterShape::transfer_seconds(int from, int to, double bytes, int flows) const {
  if (node_of(from) == node_of(to)) return inside.seconds(bytes);
  const double sharing = std::max(1.0, static_cast<double>(flows) / nics_per_node);
  return between.latency_seconds + bytes * sharing / between.bytes_per_second;
}

double ClusterShape::copy_seconds(int from, int to, double bytes, int flows) const {
  const LinkCost& link = node_of(from) == node_of(to) ? inside : between;
  return (1.0 - link.hidden) * (transfer_seconds(from, to, bytes, flows) - link.latency_seconds);
}

double ClusterShape::agree_seconds() const {
  const LinkCost& link = nodes() > 1 ? between : inside;
  return 2.0 * std::ceil(std::log2(static_cast<double>(world_size))) * link.latency_seconds;
}

SimulatedRanks::SimulatedRanks(const ClusterShape& of)
    : shape(of),
      clock(static_cast<std::size_t>(of.world_size)),
      compute(clock.size()),
      exposed(clock.size()),
      finish(clock.size()),
      chain(clock.size()) {
  for (std::size_t rank = 0; rank < chain.size(); ++rank) chain[rank].first_rank = static_cast<int>(rank);
}

void SimulatedRanks::pass_compute(std::span<const double> work) {
  std::vector<double> taken(work.begin(), work.end());
  share_processors(shape, taken);
  for (std::size_t rank = 0; rank < clock.size(); ++rank) {
    work_seconds += work[rank];
    clock[rank] += taken[rank];
    compute[rank] += taken[rank];
    chain[rank].compute += taken[rank];
  }
}

void SimulatedRanks::pass_finish(std::span<const double> work) {
  std::vector<double> taken(work.begin(), work.end());
  share_processors(shape, taken);
  for (std::size_t rank = 0; rank < clock.size(); ++rank) {
    clock[rank] += taken[rank];
    finish[rank] += taken[rank];
    chain[rank].finish += taken[rank];
  }
}

void SimulatedRanks::agree(double begun, int slowest) {
  const double arrived = begun + shape.agree_seconds();
  // A copy: the slowest rank may be among those that wait.
  Chain through = chain[static_cast<std::size_t>(slowest)];
  through.agree += arrived - begun;
  ++through.hops;
  for (std::size_t rank = 0; rank < clock.size(); ++rank) {
    if (clock[rank] >= arrived) continue;
    exposed[rank] += arrived - clock[rank];
    clock[rank] = arrived;
    chain[rank] = through;
  }
}

void SimulatedRanks::count_bytes(int from, int to, double bytes) {
  (shape.node_of(from) == shape.node_of(to) ? inside_bytes : between_bytes) += bytes;
}

double SimulatedRanks::latest() const {
  return *std::max_element(clock.begin(), clock.end());
}

int SimulatedRanks::slowest() const {
  return static_cast<int>(std::max_element(clock.begin(), clock.end()) - clock.begin());
}

void share_processors(std::span<double> work, int cores) {
  if (static_cast<int>(work.size()) <= cores) return;
  std::vector<std::size_t> order(work.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return work[a] < work[b]; });
  double now = 0.0;
  double done = 0.0;  // of each rank that is still busy
  for (std::size_t i = 0; i < order.size(); ++i) {
    const double own = work[order[i]];
    const double busy = static_cast<double>(order.size() - i);
    now += (own - done) * std::max(1.0, busy / cores);
    done = own;
    work[order[i]] = now;
  }
}

void share_processors(const ClusterShape& shape, std::vector<double>& work) {
  if (shape.ranks_per_node <= shape.cores_per_node) return;
  const auto per_node = static_cast<std::size_t>(shape.ranks_per_node);
  for (std::size_t first = 0; first < work.size(); first += per_node) {
    share_processors(std::span(work).subspan(first, std::min(per_node, work.size() - first)), shape.cores_per_node);
  }
}

}  // namespace ringscan
