#include "kernels/cuda/reach.hpp"

#include "kernels/cuda/check.hpp"

namespace ringscan::cuda {
namespace {

enum class Place { kHost, kManaged, kDevice };

Place place_of(const void* data) {
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, data));
  if (attributes.type == cudaMemoryTypeManaged) return Place::kManaged;
  return attributes.type == cudaMemoryTypeDevice ? Place::kDevice : Place::kHost;
}

bool moves_pages(int device) {
  int can = 0;
  check(cudaDeviceGetAttribute(&can, cudaDevAttrConcurrentManagedAccess, device));
  return can != 0;
}

/// Pages one by one, as a kernel meets them, would take several times as long as all at once.
void bring_near(const void* data, std::size_t bytes, cudaStream_t stream) {
  constexpr std::size_t kWorthIt = std::size_t{64} << 10;
  if (bytes < kWorthIt) return;
  int device = 0;
  check(cudaGetDevice(&device));
  thread_local int asked = -1;
  thread_local bool can = false;
  if (asked != device) {
    can = moves_pages(device);
    asked = device;
  }
  if (can) check(cudaMemPrefetchAsync(data, bytes, cudaMemLocation{cudaMemLocationTypeDevice, device}, 0, stream));
}

}  // namespace

std::int64_t extent_of(const Shape4& shape, const Shape4& strides) {
  if (element_count(shape) == 0) return 0;
  std::int64_t last = 0;
  for (std::size_t i = 0; i < shape.size(); ++i) last += (shape[i] - 1) * strides[i];
  return last + 1;
}

Reach::~Reach() {
  for (void* data : owned_) cudaFreeAsync(data, stream_);
}

void* Reach::allocate(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  void* data = nullptr;
  check(cudaMallocAsync(&data, bytes, stream_));
  owned_.push_back(data);
  return data;
}

const void* Reach::reach(const void* data, std::size_t bytes, bool is_read) {
  if (data == nullptr || bytes == 0) return data;
  const Place place = place_of(data);
  if (place == Place::kDevice) return data;
  waits_ = true;
  if (place == Place::kManaged) {
    bring_near(data, bytes, stream_);
    return data;
  }
  void* copy = allocate(bytes);
  if (is_read) check(cudaMemcpyAsync(copy, data, bytes, cudaMemcpyHostToDevice, stream_));
  return copy;
}

void* Reach::reach_back(void* data, std::size_t bytes, bool is_read) {
  void* near = const_cast<void*>(reach(data, bytes, is_read));
  if (near != data) backs_.push_back({data, near, bytes});
  return near;
}

AnyView Reach::in(const AnyView& view) {
  AnyView near = view;
  const std::int64_t extent = extent_of(view.shape, view.strides);
  near.data = in(view.data, extent * static_cast<std::int64_t>(size_of(view.type)));
  return near;
}

TensorView<const float> Reach::in(const TensorView<const float>& view) {
  return {in(view.data, extent_of(view.shape, view.strides)), view.shape, view.strides};
}

TensorView<float> Reach::in_out(const TensorView<float>& view) {
  return {in_out(view.data, extent_of(view.shape, view.strides)), view.shape, view.strides};
}

MutableAnyView Reach::out(const MutableAnyView& view) {
  MutableAnyView near = view;
  const std::int64_t bytes = extent_of(view.shape, view.strides) * static_cast<std::int64_t>(size_of(view.type));
  const bool is_dense = view.strides == dense_strides(view.shape);
  near.data = is_dense ? out(view.data, bytes) : in_out(view.data, bytes);
  return near;
}

void Reach::finish() {
  for (const Back& back : backs_) {
    check(cudaMemcpyAsync(back.to, back.from, back.bytes, cudaMemcpyDeviceToHost, stream_));
  }
  backs_.clear();
  if (waits_) check(cudaStreamSynchronize(stream_));
}

HostCopies::HostCopies(cudaStream_t stream) : stream_(stream) {
  check(cudaStreamSynchronize(stream));
}

const void* HostCopies::copy(const void* data, std::size_t bytes, bool goes_back) {
  if (data == nullptr || bytes == 0 || place_of(data) != Place::kDevice) return data;
  copies_.push_back({const_cast<void*>(data), std::vector<std::byte>(bytes), goes_back});
  std::byte* const host = copies_.back().host.data();
  check(cudaMemcpyAsync(host, data, bytes, cudaMemcpyDeviceToHost, stream_));
  check(cudaStreamSynchronize(stream_));
  return host;
}

const float* HostCopies::in(const float* data, std::int64_t count) {
  return static_cast<const float*>(copy(data, static_cast<std::size_t>(count) * sizeof(float), false));
}

float* HostCopies::in_out(float* data, std::int64_t count) {
  const void* here = copy(data, static_cast<std::size_t>(count) * sizeof(float), true);
  return static_cast<float*>(const_cast<void*>(here));
}

AnyView HostCopies::in(const AnyView& view) {
  AnyView here = view;
  const auto extent = static_cast<std::size_t>(extent_of(view.shape, view.strides));
  here.data = static_cast<const std::byte*>(copy(view.data, extent * size_of(view.type), false));
  return here;
}

TensorView<float> HostCopies::in_out(const TensorView<float>& view) {
  return {in_out(view.data, extent_of(view.shape, view.strides)), view.shape, view.strides};
}

void HostCopies::finish() {
  for (const Copy& copy : copies_) {
    if (!copy.goes_back) continue;
    check(cudaMemcpyAsync(copy.device, copy.host.data(), copy.host.size(), cudaMemcpyHostToDevice, stream_));
  }
  check(cudaStreamSynchronize(stream_));
  copies_.clear();
}

}  // namespace ringscan::cuda
