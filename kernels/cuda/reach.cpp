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

/// Pages one by one, as a kernel meets them, would take several times as long as all at once.
void bring_near(const void* data, std::size_t bytes, cudaStream_t stream) {
  constexpr std::size_t kWorthIt = std::size_t{64} << 10;
  if (bytes < kWorthIt) return;
  int device = 0;
  check(cudaGetDevice(&device));
  int can = 0;
  check(cudaDeviceGetAttribute(&can, cudaDevAttrConcurrentManagedAccess, device));
  if (can == 0) return;
  check(cudaMemPrefetchAsync(data, bytes, cudaMemLocation{cudaMemLocationTypeDevice, device}, 0, stream));
}

/// Elements from a view's first to behind its last.
std::int64_t extent_of(const Shape4& shape, const Shape4& strides) {
  if (element_count(shape) == 0) return 0;
  std::int64_t last = 0;
  for (std::size_t i = 0; i < shape.size(); ++i) last += (shape[i] - 1) * strides[i];
  return last + 1;
}

}  // namespace

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

const void* Reach::reach(const void* data, std::size_t bytes) {
  if (data == nullptr || bytes == 0) return data;
  const Place place = place_of(data);
  if (place == Place::kManaged) bring_near(data, bytes, stream_);
  if (place != Place::kHost) return data;
  void* copy = allocate(bytes);
  check(cudaMemcpyAsync(copy, data, bytes, cudaMemcpyHostToDevice, stream_));
  return copy;
}

void* Reach::reach_back(void* data, std::size_t bytes) {
  void* near = const_cast<void*>(reach(data, bytes));
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

void Reach::finish() {
  for (const Back& back : backs_) {
    check(cudaMemcpyAsync(back.to, back.from, back.bytes, cudaMemcpyDeviceToHost, stream_));
  }
  backs_.clear();
  check(cudaStreamSynchronize(stream_));
}

}  // namespace ringscan::cuda
