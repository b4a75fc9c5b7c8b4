#include "engine/ring_pass_result.hpp"

#include <algorithm>

namespace ringscan {

KeptMassFigures& KeptMassFigures::operator+=(const KeptMassFigures& other) {
  sum += other.sum;
  rows += other.rows;
  min = std::min(min, other.min);
  error_bound = std::max(error_bound, other.error_bound);
  return *this;
}

RingPassResult& RingPassResult::operator+=(const RingPassResult& other) {
  stats += other.stats;
  flops += other.flops;
  kept_mass += other.kept_mass;
  compute_seconds += other.compute_seconds;
  exposed_seconds += other.exposed_seconds;
  context_seconds += other.context_seconds;
  finish_seconds += other.finish_seconds;
  steps_taken += other.steps_taken;
  steps_saved += other.steps_saved;
  sent_bytes += other.sent_bytes;
  return *this;
}

}  // namespace ringscan
