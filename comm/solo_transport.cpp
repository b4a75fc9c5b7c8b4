#include "comm/solo_transport.hpp"

#include <cassert>

namespace ringscan {
namespace {

class SoloSum final : public PendingSum {
 public:
  explicit SoloSum(std::int64_t value) : value_(value) {}
  std::int64_t get() override { return value_; }

 private:
  std::int64_t value_;
};

}  // namespace

Ticket SoloTransport::exchange([[maybe_unused]] const Transfer& transfer) {
  assert(transfer.to_rank < 0 && transfer.from_rank < 0 && "there is nobody else");
  return Ticket();
}

std::unique_ptr<PendingSum> SoloTransport::start_sum(std::int64_t value) {
  return std::make_unique<SoloSum>(value);
}

}  // namespace ringscan
