#pragma once
// How a ring's messages move between ranks, measured over the transport and in the memory that a run uses.

#include <cstdint>

#include "comm/transport.hpp"
#include "core/element_type.hpp"
#include "engine/cost_profile.hpp"

namespace ringscan {

struct RingLink {
  LinkCost link;
  double pack_bytes_per_second = 0.0;  ///< of keys and values on their way out, with the ring's buffers made
};

/// Collective over `part`, of at least two ranks: each sends to the next, as KvRing does it, keys that lie in `space`.
/// Where the transport does not carry that memory, a hop ends with the copy into it.
RingLink measure_ring_link(Transport& part, MemorySpace& space, ElementType dtype, std::int64_t head_dim, int repeats);

}  // namespace ringscan
