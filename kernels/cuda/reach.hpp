#pragma once
// Lets a launch work on what a caller keeps anywhere: memory that a GPU reaches is used as it is, and moved there
// first; of other memory there is a copy on the GPU for the time of a call.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/tensor_view.hpp"

namespace ringscan::cuda {

/// Elements from a view's first to behind its last.
std::int64_t extent_of(const Shape4& shape, const Shape4& strides);

/// One a call, on the calling thread's current device. Null pointers stay null.
class Reach {
 public:
  explicit Reach(cudaStream_t stream) : stream_(stream) {}
  /// Gives the copies up. What is still on the stream comes first.
  ~Reach();
  Reach(const Reach&) = delete;
  Reach& operator=(const Reach&) = delete;

  template <typename T>
  const T* in(const T* data, std::int64_t count) {
    return static_cast<const T*>(reach(data, bytes_of<T>(count)));
  }
  /// Read too; finish() brings it back.
  template <typename T>
  T* in_out(T* data, std::int64_t count) {
    return static_cast<T*>(reach_back(data, bytes_of<T>(count), true));
  }
  /// Written in full, not read; likewise brought back.
  template <typename T>
  T* out(T* data, std::int64_t count) {
    return static_cast<T*>(reach_back(data, bytes_of<T>(count), false));
  }
  AnyView in(const AnyView& view);
  TensorView<const float> in(const TensorView<const float>& view);
  TensorView<float> in_out(const TensorView<float>& view);
  /// What lies between rows stays as it is.
  MutableAnyView out(const MutableAnyView& view);

  /// Of the GPU alone, unwritten.
  template <typename T>
  T* scratch(std::int64_t count) {
    return static_cast<T*>(allocate(bytes_of<T>(count)));
  }

  /// What was written goes back to where the caller has it. Waits where the host reaches any of the memory that took
  /// part, so that it never meets what is not yet done; work on the GPU's own stays behind in the stream.
  void finish();

 private:
  struct Back {
    void* to = nullptr;
    const void* from = nullptr;
    std::size_t bytes = 0;
  };

  template <typename T>
  static std::size_t bytes_of(std::int64_t count) {
    return static_cast<std::size_t>(count) * sizeof(T);
  }
  void* allocate(std::size_t bytes);
  const void* reach(const void* data, std::size_t bytes, bool is_read = true);
  void* reach_back(void* data, std::size_t bytes, bool is_read);

  cudaStream_t stream_;
  bool waits_ = false;
  std::vector<void*> owned_;
  std::vector<Back> backs_;
};

/// The other way round, for work that the host's kernels do: of the GPU's own memory there is a copy on the host for
/// the time of a call. Null pointers stay null.
class HostCopies {
 public:
  /// Waits for what is on the stream.
  explicit HostCopies(cudaStream_t stream);

  const float* in(const float* data, std::int64_t count);
  float* in_out(float* data, std::int64_t count);
  AnyView in(const AnyView& view);
  TensorView<float> in_out(const TensorView<float>& view);
  /// What was written goes back to where the caller has it.
  void finish();

 private:
  struct Copy {
    void* device = nullptr;
    std::vector<std::byte> host;
    bool goes_back = false;
  };
  const void* copy(const void* data, std::size_t bytes, bool goes_back);

  cudaStream_t stream_;
  std::vector<Copy> copies_;
};

}  // namespace ringscan::cuda
