#pragma once
// A job of one rank: nothing moves. What each of many ranks measures or computes for itself alone.

#include "comm/lone_transport.hpp"

namespace ringscan {

class SoloTransport final : public LoneTransport {
 public:
  SoloTransport() : LoneTransport(0, 1) {}

  std::string_view name() const override { return "solo"; }
  Ticket exchange(const Transfer& transfer) override;
  std::unique_ptr<Transport> duplicate() override { return std::make_unique<SoloTransport>(); }
  std::unique_ptr<Transport> first_ranks(int) override { return std::make_unique<SoloTransport>(); }
};

}  // namespace ringscan
