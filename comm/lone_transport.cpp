#include "comm/lone_transport.hpp"

namespace ringscan {
namespace {

class OwnSum final : public PendingSum {
 public:
  explicit OwnSum(std::int64_t value) : value_(value) {}
  std::int64_t get() override { return value_; }

 private:
  std::int64_t value_;
};

}  // namespace

std::unique_ptr<PendingSum> LoneTransport::start_sum(std::int64_t value) {
  return std::make_unique<OwnSum>(value);
}

}  // namespace ringscan
