#pragma once
// Tensors on the device for tests: poisoned memory, random numbers rounded to a type, any gaps between rows.

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "core/tensor_view.hpp"
#include "kernels/cuda/check.hpp"

namespace ringscan::cuda::testing {

/// Device memory, every byte 0xFF: NaN as bfloat16, float16 and float32.
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t bytes) : bytes_(std::max<std::size_t>(bytes, 16)) {
    check(cudaMalloc(&data_, bytes_));
    check(cudaMemset(data_, 0xFF, bytes_));
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  template <typename T>
  void upload(const std::vector<T>& values) const {
    check(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  template <typename T>
  std::vector<T> download(std::size_t count) const {
    std::vector<T> values(count);
    check(cudaMemcpy(values.data(), data_, count * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  std::size_t bytes_;
  void* data_ = nullptr;
};

/// Normal numbers times `scale`, rounded to `type`.
inline std::vector<float> random_rounded(std::int64_t count, ElementType type, std::uint32_t seed, float scale = 1.0f) {
  std::mt19937 generator(seed * 7919 + 17);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) {
    const float x = scale * normal(generator);
    visit_element_type(type, [&](auto tag) { value = to_float(from_float<decltype(tag)>(x)); });
  }
  return values;
}

/// [batch, seq, heads, dim] of any type, `head_gap` poisoned elements behind each head and `row_gap` behind each token.
class Tensor {
 public:
  Tensor(ElementType type, const Shape4& shape, std::int64_t head_gap = 0, std::int64_t row_gap = 0)
      : type_(type),
        shape_(shape),
        head_stride_(shape[3] + head_gap),
        row_stride_(shape[2] * head_stride_ + row_gap),
        array_(static_cast<std::size_t>(total()) * size_of(type)) {}

  void upload(const std::vector<float>& values) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(total()) * size_of(type_), std::byte{0xFF});
    for_each_head([&](std::int64_t dense, std::int64_t strided) {
      convert_elements(values.data() + dense, ElementType::kFloat32,
                       bytes.data() + strided * static_cast<std::int64_t>(size_of(type_)), type_,
                       static_cast<std::size_t>(shape_[3]));
    });
    array_.upload(bytes);
  }
  std::vector<float> download() const {
    const auto bytes = array_.download<std::byte>(static_cast<std::size_t>(total()) * size_of(type_));
    std::vector<float> values(static_cast<std::size_t>(element_count(shape_)));
    for_each_head([&](std::int64_t dense, std::int64_t strided) {
      convert_elements(bytes.data() + strided * static_cast<std::int64_t>(size_of(type_)), type_, values.data() + dense,
                       ElementType::kFloat32, static_cast<std::size_t>(shape_[3]));
    });
    return values;
  }
  MutableAnyView view() const {
    return {array_.as<std::byte>(), type_, shape_, {shape_[1] * row_stride_, row_stride_, head_stride_, 1}};
  }

 private:
  std::int64_t total() const { return shape_[0] * shape_[1] * row_stride_; }
  template <typename F>
  void for_each_head(F&& f) const {
    for (std::int64_t row = 0; row < shape_[0] * shape_[1]; ++row) {
      for (std::int64_t head = 0; head < shape_[2]; ++head) {
        f((row * shape_[2] + head) * shape_[3], row * row_stride_ + head * head_stride_);
      }
    }
  }

  ElementType type_;
  Shape4 shape_;
  std::int64_t head_stride_, row_stride_;
  DeviceArray array_;
};

/// The bounds of docs/mechanisms.md by output type, relative to max|v|.
inline double bound_of(ElementType type) {
  return type == ElementType::kBfloat16 ? 1e-2 : type == ElementType::kFloat16 ? 2e-3 : 1e-5;
}

}  // namespace ringscan::cuda::testing
