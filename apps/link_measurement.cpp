#include "apps/link_measurement.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "apps/measurement.hpp"
#include "core/stopwatch.hpp"
#include "engine/kv_ring.hpp"

namespace ringscan {
namespace {

constexpr double kPollSeconds = 5e-5;
constexpr double kLongHopSeconds = 0.25;

class RingLinkBench {
 public:
  RingLinkBench(Transport& part, MemorySpace& space, ElementType dtype, std::int64_t head_dim, int repeats)
      : part_(part),
        space_(space),
        dtype_(dtype),
        head_dim_(head_dim),
        repeats_(repeats),
        is_direct_(!space.is_host() && part.carries(space)) {}

  RingLink run() {
    RingLink found;
    LinkCost& link = found.link;
    // A link between devices needs longer messages to show its rate.
    const std::int64_t most_tokens = is_direct_ ? 262144 : 32768;
    std::int64_t longest = 1;
    for (std::int64_t tokens = 1; tokens <= most_tokens; tokens *= 8) {
      const Hop hop = measure_hop(tokens);
      // The ring's messages are long: the longest says the rate, whatever a link lets through in a burst.
      if (tokens == 1) link.latency_seconds = hop.warm;
      link.bytes_per_second = hop.bytes / std::max(hop.warm - link.latency_seconds, 1e-9);
      link.hidden = hop.hidden;
      found.pack_bytes_per_second = hop.bytes / hop.pack;
      longest = tokens;
      if (hop.warm > kLongHopSeconds) break;  // a slow link shows its rate early
    }
    const Hop one_way = measure_hop(longest, true);
    link.one_way_bytes_per_second = one_way.bytes / std::max(one_way.warm - link.latency_seconds, 1e-9);
    return found;
  }

 private:
  struct Hop {
    double bytes = 0.0;
    double pack = 0.0;  ///< buffers made, keys packed; the memory that keys arrive in touched for the first time
    double warm = 0.0;
    double hidden = 0.0;
  };

  double slowest(double seconds) const { return part_.RankGroup::all_reduce(seconds, ReduceOp::kMax); }

  /// Waits for what the space's work queue was given.
  void settle(const Buffer& buffer) const {
    std::byte byte{};
    if (space_.work_queue() != nullptr) space_.copy_out(&byte, buffer.data(), 1);
  }

  /// `one_way`: ranks of even numbers send, the others receive.
  Hop measure_hop(std::int64_t tokens, bool one_way = false) {
    const int world = part_.world_size();
    // Between devices keys are sent from the shard where they all go; packing is then measured as one head of two.
    const Shape4 shape{1, tokens, is_direct_ ? 2 : 1, head_dim_};
    const std::size_t one = static_cast<std::size_t>(element_count(shape)) * size_of(dtype_);
    Buffer shard(2 * one, nullptr, space_);
    shard.fill_zero();
    settle(shard);
    const AnyView k = dense_any_view(std::as_const(shard).data(), dtype_, shape);
    const AnyView v = dense_any_view(static_cast<const void*>(shard.bytes().data() + one), dtype_, shape);
    const SequenceLayout layout(LayoutKind::kContiguous, tokens * world, world, 1);
    const HeadSlot slot{0, 0};
    RingStep step;
    step.kv_rank = part_.rank();
    step.send_to = (part_.rank() + 1) % world;
    step.recv_from = step.next_kv_rank = (part_.rank() + world - 1) % world;
    if (one_way) {
      const bool sends = part_.rank() % 2 == 0 && part_.rank() + 1 < world;
      const bool receives = part_.rank() % 2 == 1;
      if (!sends) step.send_to = -1;
      if (!receives) step.recv_from = step.next_kv_rank = -1;
    }
    std::vector<double> packs, warms, exposures;
    Hop hop;
    int repeats = repeats_;
    for (int repeat = -1; repeat < repeats; ++repeat) {
      part_.barrier();
      const Stopwatch watch;
      KvRing ring(layout, {step}, k, v, {&slot, 1}, space_, part_, nullptr);
      hop.bytes = static_cast<double>(ring.message_bytes(part_.rank()));
      if (!is_direct_) {
        Buffer arriving(ring.message_bytes(part_.rank()));
        arriving.fill_zero();
      }
      settle(shard);
      const double pack = slowest(watch.seconds());
      move(ring, step, shard);  // into fresh memory
      const double warm = move(ring, step, shard);
      if (repeat < 0) {
        repeats = repetitions_of(pack + 5.0 * warm, repeats_);
        continue;
      }
      packs.push_back(pack);
      warms.push_back(warm);
      exposures.push_back(slowest(exposed_beside_work(ring, step, shard, 3.0 * warm)) / warm);
    }
    hop.pack = quartiles(packs).median;
    hop.warm = quartiles(warms).median;
    hop.hidden = std::clamp(1.0 - quartiles(exposures).median, 0.0, 1.0);
    return hop;
  }

  /// As a step of the ring ends: what work is queued behind it begins once the keys are there.
  void arrive(Ticket& moving, KvRing& ring, const RingStep& step, const Buffer& shard) const {
    moving.order();
    ring.advance(step);
    moving.wait();
    settle(shard);
  }

  double move(KvRing& ring, const RingStep& step, const Buffer& shard) const {
    part_.barrier();
    const Stopwatch watch;
    Ticket moving = ring.start(step);
    arrive(moving, ring, step, shard);
    return slowest(watch.seconds());
  }

  /// Seconds that a transfer takes from a rank that is busy meanwhile and lets it move on now and then, as kernels do.
  double exposed_beside_work(KvRing& ring, const RingStep& step, const Buffer& shard, double work_seconds) const {
    part_.barrier();
    double exposed = 0.0;
    Ticket moving = timed(exposed, [&] { return ring.start(step); });
    const Stopwatch busy;
    Stopwatch since;
    bool is_done = false;
    while (busy.seconds() < work_seconds) {
      if (is_done || since.seconds() < kPollSeconds) continue;
      timed(exposed, [&] { is_done = moving.poll(); });
      since.lap();
    }
    timed(exposed, [&] { arrive(moving, ring, step, shard); });
    return exposed;
  }

  Transport& part_;
  MemorySpace& space_;
  ElementType dtype_;
  std::int64_t head_dim_;
  int repeats_;
  bool is_direct_;  // from device to device
};

}  // namespace

RingLink measure_ring_link(Transport& part, MemorySpace& space, ElementType dtype, std::int64_t head_dim, int repeats) {
  return RingLinkBench(part, space, dtype, head_dim, repeats).run();
}

}  // namespace ringscan
