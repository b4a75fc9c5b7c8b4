#include "comm/clock_offset.hpp"

#include <cmath>
#include <span>

#include "core/trace.hpp"

namespace ringscan {
namespace {

constexpr int kRounds = 16;

void send(Transport& transport, int rank, const std::int64_t& value) {
  Transfer transfer;
  transfer.to_rank = rank;
  transfer.send = std::as_bytes(std::span(&value, 1));
  transport.exchange(transfer).wait();
}

std::int64_t receive(Transport& transport, int rank) {
  std::int64_t value = 0;
  Transfer transfer;
  transfer.from_rank = rank;
  transfer.receive = std::as_writable_bytes(std::span(&value, 1));
  transport.exchange(transfer).wait();
  return value;
}

}  // namespace

ClockReading read_clock_offset(Transport& transport) {
  ClockReading best;
  best.local_ns = Trace::now_ns();
  if (transport.rank() == 0) {
    for (int rank = 1; rank < transport.world_size(); ++rank) {
      for (int round = 0; round < kRounds; ++round) {
        receive(transport, rank);
        send(transport, rank, Trace::now_ns());
      }
    }
    return best;
  }
  for (int round = 0; round < kRounds; ++round) {
    const std::int64_t asked_ns = Trace::now_ns();
    send(transport, 0, asked_ns);
    const std::int64_t root_ns = receive(transport, 0);
    const std::int64_t answered_ns = Trace::now_ns();
    const std::int64_t error_ns = (answered_ns - asked_ns + 1) / 2;
    if (round > 0 && error_ns >= best.error_ns) continue;
    best.local_ns = asked_ns + (answered_ns - asked_ns) / 2;
    best.offset_ns = root_ns - best.local_ns;
    best.error_ns = error_ns;
  }
  return best;
}

std::int64_t to_root_clock(std::int64_t local_ns, const ClockReading& begin, const ClockReading& end) {
  if (end.local_ns <= begin.local_ns) return local_ns + begin.offset_ns;
  const double share =
      static_cast<double>(local_ns - begin.local_ns) / static_cast<double>(end.local_ns - begin.local_ns);
  // The difference alone is small enough for a double.
  return local_ns + begin.offset_ns + std::llround(share * static_cast<double>(end.offset_ns - begin.offset_ns));
}

}  // namespace ringscan
