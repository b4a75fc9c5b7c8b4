#pragma once
// Lets a launch work on what a caller keeps anywhere the host can read: memory that a GPU reaches is used as it is, and
// moved there first; of other memory there is a copy on the GPU for the time of a call.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/tensor_view.hpp"

namespace ringscan::cuda {

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
    return static_cast<T*>(reach_back(data, bytes_of<T>(count)));
  }
  AnyView in(const AnyView& view);
  TensorView<const float> in(const TensorView<const float>& view);
  TensorView<float> in_out(const TensorView<float>& view);

  /// Of the GPU alone, unwritten.
  template <typename T>
  T* scratch(std::int64_t count) {
    return static_cast<T*>(allocate(bytes_of<T>(count)));
  }

  /// What was written goes back to where the caller has it; waits for all of it.
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
  const void* reach(const void* data, std::size_t bytes);
  void* reach_back(void* data, std::size_t bytes);

  cudaStream_t stream_;
  std::vector<void*> owned_;
  std::vector<Back> backs_;
};

}  // namespace ringscan::cuda
