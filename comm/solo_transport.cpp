#include "comm/solo_transport.hpp"

#include <cassert>

namespace ringscan {

Ticket SoloTransport::exchange([[maybe_unused]] const Transfer& transfer) {
  assert(transfer.to_rank < 0 && transfer.from_rank < 0 && "there is nobody else");
  return Ticket();
}

}  // namespace ringscan
