#include "engine/measure_pass.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "comm/ring_schedule.hpp"
#include "core/error.hpp"
#include "engine/kv_ring.hpp"

namespace ringscan {
namespace {

constexpr std::int64_t kKeyBlock = 512;

/// Moves the transfer in flight on while the kernels compute.
class TransferHeartbeat final : public Heartbeat {
 public:
  explicit TransferHeartbeat(Ticket& ticket) : ticket_(ticket) {}
  void beat() override {
    if (!is_done_) is_done_ = ticket_.poll();
  }

 private:
  Ticket& ticket_;
  bool is_done_ = false;
};

/// The keys' view as values one element wide: measures want no v, and their keys travel with next to none.
AnyView narrow_values(AnyView k) {
  k.shape[3] = 1;
  return k;
}

PartialShape shape_of(const MeasureTask& task, const Chunk& chunk) {
  return {task.q.shape[0], chunk.run.size(), static_cast<std::int64_t>(task.slots.size()), 1};
}

/// Sends the keys round; attend(query chunk index, attend task, heartbeat) meets them, near first for each chunk.
/// After each step all ranks agree whether any has_open_work().
template <typename Attend, typename HasOpenWork>
void walk_ring(const MeasureTask& task, const Band& band, Transport& transport, MemoryLedger* ledger, Attend&& attend,
               HasOpenWork&& has_open_work) {
  const SequenceLayout& layout = *task.layout;
  const int rank = transport.rank();
  const RingSchedule schedule = make_ring_schedule(layout, band, rank);
  KvRing ring(layout, schedule, task.k, narrow_values(task.k), task.slots, host_memory(), transport, ledger);
  std::unique_ptr<PendingSum> open_ranks;
  for (const RingStep& step : schedule) {
    Ticket moving = ring.start(step);
    TransferHeartbeat heartbeat(moving);
    for (const RingPart& part : step.parts) {
      const Chunk& queries = layout.chunks(rank)[static_cast<std::size_t>(part.query_chunk)];
      const Chunk& keys = layout.chunks(step.kv_rank)[static_cast<std::size_t>(part.key_chunk)];
      AttendTask attend_task;
      attend_task.q = task.q.tokens(queries.local_begin, queries.run.size());
      attend_task.k = ring.keys(step).tokens(keys.local_begin, keys.run.size());
      attend_task.v = ring.values(step).tokens(keys.local_begin, keys.run.size());
      attend_task.slots = ring.slots(step);
      attend_task.query_run = queries.run;
      attend_task.key_run = keys.run;
      attend_task.band = part.band;
      attend_task.scale = static_cast<float>(task.scale);
      attend_task.key_block = kKeyBlock;
      attend(static_cast<std::size_t>(part.query_chunk), attend_task, heartbeat);
    }
    moving.wait();
    ring.advance(step);
    // Asked for one step later, so that nobody stalls on it.
    if (open_ranks && open_ranks->get() == 0) return;
    open_ranks = transport.start_sum(has_open_work() ? 1 : 0);
  }
  if (open_ranks) open_ranks->get();
}

}  // namespace

ReachCounts run_reach_pass(const MeasureTask& task, const ReachParams& params, Transport& transport,
                           const MeasureKernels& kernels, MemoryLedger* ledger) {
  if (task.layout->kind() != LayoutKind::kContiguous) throw failure("stick reach: want a contiguous layout");
  const Chunk& chunk = task.layout->chunks(transport.rank())[0];
  ReachBlock block;
  kernels.make(block, shape_of(task, chunk), params, ledger);
  walk_ring(
      task, band_of(params), transport, ledger,
      [&](std::size_t, const AttendTask& attend_task, Heartbeat& heartbeat) {
        kernels.attend(attend_task, params, block, heartbeat);
      },
      [&] { return !kernels.all_done(block); });
  ReachCounts counts;
  for (std::size_t slot = 0; slot < task.slots.size(); ++slot) {
    for (std::size_t epsilon = 0; epsilon < params.epsilons.size(); ++epsilon) {
      counts.never.push_back(
          kernels.read(block, static_cast<std::int64_t>(slot), params, epsilon, counts.keys.emplace_back()));
    }
  }
  return counts;
}

KeptMass run_mass_pass(const MeasureTask& task, const MassParams& params, TensorView<const float> lse,
                       Transport& transport, const MeasureKernels& kernels, MemoryLedger* ledger) {
  if (params.select == SparseSelect::kWindow && task.layout->kind() != LayoutKind::kContiguous) {
    throw failure("kept mass of a window: want a contiguous layout");
  }
  const auto chunks = task.layout->chunks(transport.rank());
  std::vector<MassBlock> blocks(chunks.size());
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    kernels.make(blocks[i], shape_of(task, chunks[i]), params, ledger);
    blocks[i].lse = lse;
    blocks[i].lse.data = lse.row(0, chunks[i].local_begin, 0);
    blocks[i].lse.shape[1] = chunks[i].run.size();
  }
  walk_ring(
      task, band_of(params), transport, ledger,
      [&](std::size_t index, const AttendTask& attend_task, Heartbeat& heartbeat) {
        kernels.attend(attend_task, params, blocks[index], heartbeat);
      },
      [] { return true; });
  KeptMass sums;
  sums.low.assign(task.slots.size() * params.exponents.size(), 0.0);
  sums.high = sums.low;
  for (std::size_t i = 0; i < chunks.size(); ++i) kernels.add_kept(blocks[i], chunks[i].run, params, sums);
  return sums;
}

std::vector<std::int64_t> select_quantiles(std::span<std::vector<std::int64_t>> lists, double share, RankGroup& group) {
  const std::size_t count = lists.size();
  std::vector<std::int64_t> total(count);
  std::vector<std::int64_t> low(count, 0);
  std::int64_t largest = 0;
  for (std::size_t i = 0; i < count; ++i) {
    std::sort(lists[i].begin(), lists[i].end());
    total[i] = static_cast<std::int64_t>(lists[i].size());
    if (!lists[i].empty()) largest = std::max(largest, lists[i].back());
  }
  group.all_reduce(total, ReduceOp::kSum);
  std::vector<std::int64_t> high(count, group.all_reduce(largest, ReduceOp::kMax));
  // Bisection on the value: the answer lies in [low, high]; all ranks take the same steps.
  std::vector<std::int64_t> at_most(count);
  while (low != high) {
    for (std::size_t i = 0; i < count; ++i) {
      const std::int64_t middle = low[i] + (high[i] - low[i]) / 2;
      at_most[i] = std::upper_bound(lists[i].begin(), lists[i].end(), middle) - lists[i].begin();
    }
    group.all_reduce(at_most, ReduceOp::kSum);
    for (std::size_t i = 0; i < count; ++i) {
      const auto wanted = static_cast<std::int64_t>(std::ceil(share * static_cast<double>(total[i])));
      const std::int64_t middle = low[i] + (high[i] - low[i]) / 2;
      if (at_most[i] >= wanted) {
        high[i] = middle;
      } else {
        low[i] = std::min(middle + 1, high[i]);
      }
    }
  }
  return low;
}

}  // namespace ringscan
