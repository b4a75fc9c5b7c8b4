#include "engine/ring_task.hpp"

namespace ringscan {

RingPassTask ring_task(const RunConfig& config, const RunPlan& plan, const ShardPlan& shard, const PassPlan& pass,
                       std::span<const HeadSlot> slots, const ResidentInput& input, const ResidentOutput& output,
                       const Kernels& kernels) {
  RingPassTask task;
  task.layout = &shard.layout;
  task.mechanism = pass.mechanism;
  task.scale = pass.scale;
  task.key_block = plan.key_block;
  task.piece_keys = kernels.piece_keys();
  task.q = input.q();
  task.k = input.k();
  task.v = input.v();
  task.slots = slots;
  task.o = output.o();
  task.statistic = has_lse(pass.mechanism) ? output.lse() : output.remainder();
  task.wants_kept_mass = config.want_kept_mass;
  task.kept_mass = output.kept_mass();
  task.remainder_value = input.remainder_value();
  return task;
}

}  // namespace ringscan
