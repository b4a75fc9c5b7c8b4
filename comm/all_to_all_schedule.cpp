#include "comm/all_to_all_schedule.hpp"

#include <cassert>

namespace ringscan {

ChannelRun channels_of(const ChannelRun& channels, int rank, int world_size) {
  return {channels.begin + channels.size() * rank / world_size,
          channels.begin + channels.size() * (rank + 1) / world_size};
}

AllToAllSchedule make_all_to_all_schedule(const SequenceLayout& layout, const ChannelRun& channels, int rank) {
  const int world_size = layout.world_size();
  assert(layout.kind() == LayoutKind::kContiguous && 0 <= rank && rank < world_size);
  AllToAllSchedule schedule;
  schedule.tokens = layout.chunks(rank).front().run;
  schedule.channels = channels_of(channels, rank, world_size);
  for (int distance = 0; distance < world_size; ++distance) {
    const int receiver = (rank + distance) % world_size;
    const int sender = (rank - distance + world_size) % world_size;
    AllToAllStep step;
    const ChannelRun theirs = channels_of(channels, receiver, world_size);
    if (!schedule.tokens.empty() && !theirs.empty()) {
      step.send_to = receiver;
      step.send_channels = theirs;
    }
    const TokenRun tokens = layout.chunks(sender).front().run;
    if (!tokens.empty() && !schedule.channels.empty()) {
      step.recv_from = sender;
      step.recv_tokens = tokens;
    }
    if (step.send_to >= 0 || step.recv_from >= 0) schedule.steps.push_back(step);
  }
  return schedule;
}

}  // namespace ringscan
