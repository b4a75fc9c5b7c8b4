#include "engine/simulate_block.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "comm/halo_schedule.hpp"
#include "engine/linear_pass.hpp"
#include "engine/long_conv_pass.hpp"
#include "engine/simulate_scan.hpp"

namespace ringscan {
namespace {

constexpr double kFloatBytes = 4.0;

/// Where ranks share processors: what copies by these take longer than alone.
std::vector<double> waiting_copies(const SimulatedRanks& ranks, const std::vector<double>& copies) {
  std::vector<double> shared = copies;
  share_processors(ranks.shape, shared);
  for (std::size_t rank = 0; rank < shared.size(); ++rank) shared[rank] -= copies[rank];
  return shared;
}

void wait_until(SimulatedRanks& ranks, std::size_t rank, double moment, const Chain& chain) {
  if (moment <= ranks.clock[rank]) return;
  ranks.exposed[rank] += moment - ranks.clock[rank];
  ranks.clock[rank] = moment;
  ranks.chain[rank] = chain;
}

class BlockSimulation {
 public:
  BlockSimulation(const SimulatedBlock& block, SimulatedRanks& ranks)
      : block_(block),
        plan_(*block.plan),
        shape_(block.plan->shape),
        cost_(block.cost),
        ranks_(ranks),
        world_(ranks.clock.size()),
        before_(world_),
        output_(world_),
        state_(world_) {}

  void run() {
    if (std::holds_alternative<ChelaParams>(shape_.mechanism)) {
      run_chela();
    } else {
      run_scanned();
    }
    std::vector<double> finish(world_);
    for (std::size_t rank = 0; rank < world_; ++rank) {
      finish[rank] = cost_.token.pass_seconds + tokens(rank) * cost_.token.finish_row_seconds;
    }
    ranks_.pass_finish(finish);
  }

 private:
  double tokens(std::size_t rank) const {
    return static_cast<double>(plan_.layout.local_tokens(static_cast<int>(rank)) * shape_.batch);
  }
  double row_bytes(std::int64_t channels) const { return static_cast<double>(shape_.batch * channels) * kFloatBytes; }

  /// What a rank computes of its tokens, cut at the state's arrival; by `parts` blocks of channels.
  void share_out(double parts, bool has_lines) {
    const KernelCost& token = cost_.token;
    const std::vector<int> participants = scan_participants(plan_.layout);
    for (const int at : participants) {
      const auto rank = static_cast<std::size_t>(at);
      const double useful = tokens(rank) * token.row_seconds;
      const double fitted = parts * token.call_seconds + useful;
      const double own = has_lines ? parts * token.call_seconds + tokens(rank) * cost_.lines_row_seconds
                                   : token.corrected(fitted, parts);
      ranks_.useful_seconds += std::min(useful, own);
      before_[rank] = own * (1.0 - cost_.behind);
      output_[rank] = own * cost_.behind;
      if (block_.reproducible) continue;
      if (at != participants.back()) state_[rank] = tokens(rank) * token.state_row_seconds;
      if (at != participants.front()) {
        output_[rank] += std::min(tokens(rank), cost_.incoming_rows) * cost_.incoming_row_seconds;
      }
    }
  }

  ScanKind ssm_scan_kind() const { return block_.reproducible ? ScanKind::kSerial : ScanKind::kLogarithmic; }

  /// A scan of `slots` states, of all that share_out() found.
  void scan(int slots, double state_bytes, ScanKind kind) {
    SimulatedScan scan;
    scan.layout = &plan_.layout;
    scan.kind = kind;
    scan.slots = slots;
    scan.state_bytes = state_bytes / slots;
    scan.state_seconds = state_;
    scan.output_seconds = output_;
    for (std::vector<double>* seconds : {&scan.state_seconds, &scan.output_seconds}) {
      for (double& of_slot : *seconds) of_slot /= slots;
    }
    simulate_scan(scan, ranks_);
  }

  /// ssm and mamba: block of channels by block of channels.
  void run_scanned() {
    const bool is_mamba = std::holds_alternative<MambaParams>(shape_.mechanism);
    const std::int64_t channels = is_mamba ? shape_.mamba.d_inner : shape_.channels;
    const auto parts = static_cast<int>(ceil_div(channels, std::max<std::int64_t>(1, plan_.block_channels)));
    if (is_mamba) simulate_halo(plan_.layout, shape_.mamba.conv_width - 1, row_bytes(channels), ranks_);
    share_out(parts, false);
    if (block_.reproducible) {
      for (std::size_t rank = 0; rank < world_; ++rank) output_[rank] += before_[rank];
      const std::int64_t step = ssm_chained_channels(plan_.block_channels, plan_.layout);
      const auto states = static_cast<double>(plan_.state_bytes) * static_cast<double>(shape_.d_state) /
                          static_cast<double>(1 + shape_.d_state);  // no sums of delta
      scan(parts * static_cast<int>(ceil_div(plan_.block_channels, step)), parts * states, ssm_scan_kind());
      return;
    }
    for (std::vector<double>* seconds : {&before_, &output_, &state_}) {
      for (double& of_part : *seconds) of_part /= parts;
    }
    for (int part = 0; part < parts; ++part) {
      ranks_.pass_compute(before_);
      scan(1, static_cast<double>(plan_.state_bytes), ssm_scan_kind());
    }
  }

  void run_chela() {
    const ChelaShape& s = shape_.chela.shape;
    const LongConvMethod method = choose_long_conv(plan_.layout, s.long_width, block_.reproducible);
    const bool has_lines = method == LongConvMethod::kAllToAll;
    simulate_halo(plan_.layout, s.short_width - 1, row_bytes(s.channels), ranks_);
    if (has_lines) {
      const std::int64_t together = long_conv_block_channels(plan_.layout, s.channels, s.long_width);
      simulate_all_to_all(plan_.layout, static_cast<double>(shape_.batch * ceil_div(s.channels, together)),
                          row_bytes(s.channels), ranks_);
    } else {
      simulate_halo(plan_.layout, s.long_width - 1, row_bytes(s.channels), ranks_);
    }
    share_out(1.0, has_lines);
    ranks_.pass_compute(before_);
    const std::int64_t states = ceil_div(s.num_heads, block_.heads_a_state);
    const auto ranks = static_cast<int>(scan_participants(plan_.layout).size());
    scan(static_cast<int>(states), static_cast<double>(plan_.state_bytes),
         linear_scan_kind(block_.reproducible, block_.by_device, ranks,
                          plan_.state_bytes / static_cast<std::size_t>(states)));
  }

  const SimulatedBlock& block_;
  const BlockPlan& plan_;
  const BlockShape& shape_;
  const BlockCost& cost_;
  SimulatedRanks& ranks_;
  std::size_t world_;
  std::vector<double> before_;  // seconds by rank
  std::vector<double> output_;
  std::vector<double> state_;
};

}  // namespace

void simulate_halo(const SequenceLayout& layout, std::int64_t halo_width, double token_bytes, SimulatedRanks& ranks) {
  if (halo_width < 1 || ranks.size() == 1) return;
  const std::vector<double> begun = ranks.clock;
  const std::vector<Chain> chains = ranks.chain;
  std::vector<double> copies(begun.size());
  for (int rank = 0; rank < ranks.size(); ++rank) {
    for (const HaloPart& part : make_halo_schedule(layout, rank, halo_width).receives) {
      const double bytes = static_cast<double>(part.tokens.size()) * token_bytes;
      const int flows = std::min(rank - part.peer, ranks.shape.ranks_per_node);
      const double seconds = ranks.shape.transfer_seconds(part.peer, rank, bytes, flows);
      ranks.count_bytes(part.peer, rank, bytes);
      copies[static_cast<std::size_t>(rank)] += ranks.shape.copy_seconds(part.peer, rank, bytes, flows);
      const auto from = static_cast<std::size_t>(part.peer), to = static_cast<std::size_t>(rank);
      const std::size_t later = begun[from] > begun[to] ? from : to;
      Chain chain = chains[later];
      (ranks.shape.node_of(part.peer) == ranks.shape.node_of(rank) ? chain.inside : chain.between) += seconds;
      for (const std::size_t side : {from, to}) {
        Chain own = chain;
        own.hops += side == later ? 0 : 1;
        wait_until(ranks, side, begun[later] + seconds, own);
      }
    }
  }
  const std::vector<double> waiting = waiting_copies(ranks, copies);
  for (std::size_t rank = 0; rank < waiting.size(); ++rank) {
    Chain chain = ranks.chain[rank];
    chain.inside += waiting[rank];
    wait_until(ranks, rank, ranks.clock[rank] + waiting[rank], chain);
  }
}

void simulate_all_to_all(const SequenceLayout& layout, double exchanges, double token_bytes, SimulatedRanks& ranks) {
  const int world = ranks.size();
  if (world == 1) return;
  const ClusterShape& shape = ranks.shape;
  const double begun = ranks.latest();
  const auto slowest = static_cast<std::size_t>(ranks.slowest());
  const Chain begin = ranks.chain[slowest];
  std::vector<double> inside(ranks.clock.size()), between(ranks.clock.size()), copies(ranks.clock.size());
  for (int rank = 0; rank < world; ++rank) {
    const auto here = static_cast<std::size_t>(rank);
    const int first = shape.node_of(rank) * shape.ranks_per_node;
    const int near = std::min(world, first + shape.ranks_per_node) - first - 1;
    const int far = world - 1 - near;
    // There and back; of its tokens' channels a rank gives all but its own share away.
    const double peer_bytes = static_cast<double>(layout.local_tokens(rank)) * token_bytes / world;
    const LinkCost& link = shape.inside;
    inside[here] = 2.0 * near * (exchanges * link.latency_seconds + peer_bytes / link.bytes_per_second);
    copies[here] = 2.0 * near * (1.0 - link.hidden) * peer_bytes / link.bytes_per_second;
    ranks.inside_bytes += 2.0 * near * peer_bytes;
    ranks.between_bytes += 2.0 * far * peer_bytes;
    if (far == 0) continue;
    const double sharing = std::max(1.0, static_cast<double>(near + 1) / shape.nics_per_node);
    between[here] =
        2.0 * far * (exchanges * shape.between.latency_seconds + peer_bytes * sharing / shape.between.bytes_per_second);
  }
  const std::vector<double> waiting = waiting_copies(ranks, copies);
  for (std::size_t rank = 0; rank < waiting.size(); ++rank) {
    Chain chain = begin;
    chain.hops += rank == slowest ? 0 : 1;
    chain.inside += inside[rank] + waiting[rank];
    chain.between += between[rank];
    wait_until(ranks, rank, begun + inside[rank] + waiting[rank] + between[rank], chain);
  }
}

void simulate_block(const SimulatedBlock& block, SimulatedRanks& ranks) {
  BlockSimulation(block, ranks).run();
}

}  // namespace ringscan
