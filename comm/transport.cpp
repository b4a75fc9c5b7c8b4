#include "comm/transport.hpp"

#include <algorithm>
#include <exception>
#include <vector>

namespace ringscan {

namespace {

/// Several transfers in flight as one.
class TicketBundle final : public Ticket::Impl {
 public:
  explicit TicketBundle(std::vector<Ticket> tickets) : tickets_(std::move(tickets)) {}
  bool poll() override {
    // Each is moved on, whatever the others say.
    return std::count_if(tickets_.begin(), tickets_.end(), [](Ticket& ticket) { return !ticket.poll(); }) == 0;
  }
  void wait() override {
    for (Ticket& ticket : tickets_) ticket.wait();
  }
  void order() override {
    for (Ticket& ticket : tickets_) ticket.order();
  }
  // The tickets, too, see that an exception unwinds, and give up.
  void abandon() override { tickets_.clear(); }

 private:
  std::vector<Ticket> tickets_;
};

}  // namespace

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

Ticket Transport::exchange_all(std::span<const Transfer> transfers) {
  if (transfers.size() == 1) return exchange(transfers.front());
  std::vector<Ticket> tickets;
  tickets.reserve(transfers.size());
  for (const Transfer& transfer : transfers) tickets.push_back(exchange(transfer));
  return Ticket(std::make_unique<TicketBundle>(std::move(tickets)));
}

}  // namespace ringscan
