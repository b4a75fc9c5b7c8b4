#include "engine/resident.hpp"

#include <utility>

namespace ringscan {
namespace {

template <typename View>
std::size_t bytes_of(const View& view) {
  return static_cast<std::size_t>(element_count(view.shape)) * size_of(view.type);
}

}  // namespace

Resident::Resident(const AnyView& host, MemorySpace& space) : view_(host) {
  if (space.is_host() || host.data == nullptr) return;
  copy_ = Buffer(bytes_of(host), nullptr, space);
  space.copy_in(copy_.data(), host.data, copy_.size_bytes());
  view_ = dense_any_view(std::as_const(copy_).data(), host.type, host.shape);
}

HostCopy::HostCopy(const AnyView& resident, MemorySpace& space) : view_(resident) {
  if (space.is_host() || resident.data == nullptr) return;
  copy_ = Buffer(bytes_of(resident));
  space.copy_out(copy_.data(), resident.data, copy_.size_bytes());
  view_ = dense_any_view(std::as_const(copy_).data(), resident.type, resident.shape);
}

ResidentInput::ResidentInput(const ShardInput& input, MemorySpace& space)
    : q_(input.q, space),
      remainder_value_(input.remainder_value, space),
      log_decay_(input.linear.log_decay, space),
      k_(input.k),
      v_(input.v) {
  if (space.is_host()) return;
  kv_copy_ = Buffer(bytes_of(k_) + bytes_of(v_), nullptr, space);
  std::byte* const v_data = kv_copy_.bytes().data() + bytes_of(k_);
  space.copy_in(kv_copy_.data(), k_.data, bytes_of(k_));
  space.copy_in(v_data, v_.data, bytes_of(v_));
  k_ = dense_any_view(std::as_const(kv_copy_).data(), k_.type, k_.shape);
  v_ = dense_any_view(static_cast<const void*>(v_data), v_.type, v_.shape);
}

ResidentOutput::ResidentOutput(const ShardOutput& output, MemorySpace& space)
    : space_(&space),
      host_o_(output.o),
      o_(output.o),
      lse_(make_statistic(output.lse)),
      remainder_(make_statistic(output.remainder)),
      kept_mass_(make_statistic(output.kept_mass)) {
  if (space.is_host()) return;
  const ElementType type = output.o.type == ElementType::kFloat64 ? ElementType::kFloat32 : output.o.type;
  o_copy_ = Buffer(static_cast<std::size_t>(element_count(output.o.shape)) * size_of(type), nullptr, space);
  o_ = dense_any_view(o_copy_.data(), type, output.o.shape);
}

ResidentOutput::Statistic ResidentOutput::make_statistic(const TensorView<float>& host) const {
  Statistic statistic{host, {}, host};
  if (space_->is_host() || host.data == nullptr) return statistic;
  statistic.copy = Buffer(static_cast<std::size_t>(element_count(host.shape)) * sizeof(float), nullptr, *space_);
  space_->copy_in(statistic.copy.data(), host.data, statistic.copy.size_bytes());
  statistic.view = dense_view(statistic.copy.as<float>(), host.shape);
  return statistic;
}

void ResidentOutput::bring_back(const std::vector<int>& heads, MemorySpace& way) const {
  if (way.is_host()) return;
  for (const Statistic* statistic : {&lse_, &remainder_, &kept_mass_}) {
    if (statistic->view.data == nullptr) continue;
    way.copy_out(statistic->host.data, statistic->view.data, statistic->copy.size_bytes());
  }
  if (std::ssize(heads) == host_o_.shape[2] && host_o_.type == o_.type) {
    way.copy_out(host_o_.data, o_.data, o_copy_.size_bytes());
    return;
  }
  // The other heads' rows were written on the host.
  const HostCopy rows(o_, way);
  const auto dim = static_cast<std::size_t>(o_.shape[3]);
  for (std::int64_t batch = 0; batch < o_.shape[0]; ++batch) {
    for (std::int64_t token = 0; token < o_.shape[1]; ++token) {
      for (const int head : heads) {
        convert_elements(rows.view().row(batch, token, head), o_.type, host_o_.row(batch, token, head), host_o_.type,
                         dim);
      }
    }
  }
}

}  // namespace ringscan
