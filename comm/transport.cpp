#include "comm/transport.hpp"

#include <exception>

namespace ringscan {

Ticket& Ticket::operator=(Ticket&& other) noexcept {
  Ticket ended(std::move(*this));  // waits for the transfer that this one stood for
  impl_ = std::move(other.impl_);
  return *this;
}

Ticket::~Ticket() {
  if (impl_ == nullptr) return;
  try {
    // While an error unwinds the rank, its peers may never come to their side of the transfer.
    if (std::uncaught_exceptions() > 0) {
      impl_->abandon();
    } else {
      impl_->wait();
    }
  } catch (...) {
    // A destructor cannot throw; the failure shows at the next call on the transport.
  }
}

void Ticket::wait() {
  if (impl_ == nullptr) return;
  impl_->wait();
  impl_.reset();
}

void Ticket::order() {
  if (impl_ != nullptr) impl_->order();
}

}  // namespace ringscan
