#include <string>

#include "core/error.hpp"
#include "kernels/cuda/block_backend.hpp"
#include "kernels/cuda/check.hpp"
#include "kernels/cuda/managed_memory.hpp"
#include "kernels/cuda/math_libraries.hpp"
#include "kernels/cuda/reach.hpp"
#include "kernels/cuda/scan.hpp"

namespace ringscan::cuda {
namespace {

constexpr std::int64_t kMostStates = 128;
/// Enough rows that a product of a few hundred columns fills the device.
constexpr std::int64_t kChunkTokens = 8192;

void require(bool holds, const char* wanted) {
  if (!holds) throw failure(std::string("cuda block kernels: ") + wanted);
}

/// Whether the memory of both, from a view's first element to its last, has a byte in common.
bool overlap(const TensorView<float>& y, const AnyView& u) {
  if (y.data == nullptr || element_count(y.shape) == 0) return false;
  const auto end_of = [](const auto& view, std::size_t element_bytes) {
    return reinterpret_cast<std::uintptr_t>(view.data) +
           static_cast<std::size_t>(extent_of(view.shape, view.strides)) * element_bytes;
  };
  return reinterpret_cast<std::uintptr_t>(y.data) < end_of(u, size_of(u.type)) &&
         reinterpret_cast<std::uintptr_t>(u.data) < end_of(y, sizeof(float));
}

class Cublas {
 public:
  explicit Cublas(cudaStream_t stream) : library_(math_libraries()) {
    check(library_.cublas_create(&handle_), "cublasCreate");
    check(library_.cublas_set_stream(handle_, stream), "cublasSetStream");
  }
  ~Cublas() { library_.cublas_destroy(handle_); }
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  /// As ProjectTask says. cuBLAS counts columns first: what are rows here are columns there.
  void project(const ProjectTask& task, const float* in, const float* weight, float* out) const {
    const float one = 1.0f, beta = task.adds ? 1.0f : 0.0f;
    check(library_.cublas_sgemm(handle_, CUBLAS_OP_T, CUBLAS_OP_N, task.out_dim, task.rows, task.in_dim, &one, weight,
                                task.weight_stride, in, task.in_stride, &beta, out, task.out_stride),
          "cublasSgemm");
  }

 private:
  const MathLibraries& library_;
  cublasHandle_t handle_ = nullptr;
};

class CudaSsmKernels final : public SsmKernels {
 public:
  CudaSsmKernels(const Stream& stream, MemorySpace& device_memory) : stream_(stream), device_memory_(device_memory) {
    check(cudaGetDevice(&device_));
  }

  MemorySpace& memory() const override { return memory_; }
  MemorySpace& work_memory() const override { return device_memory_; }
  void settle(Heartbeat& heartbeat) const override { stream_.wait(heartbeat); }
  std::int64_t chunk_tokens() const override { return kChunkTokens; }
  void warm_up() const override;
  bool summarizes_first() const override { return true; }

  void scan(const ScanInputs& inputs, const ScanSummary& state, TensorView<float> y, Heartbeat& heartbeat) override;
  std::int64_t add_incoming(const ScanInputs& inputs, const float* h_in, TensorView<float> y,
                            Heartbeat& heartbeat) override;
  void join(const float* a, std::int64_t batch, std::int64_t channels, std::int64_t d_state, const ScanSummary& near,
            const ScanSummary& far) const override;
  void convert(const AnyView& from, const MutableAnyView& to) const override;
  void conv1d(const ConvTask& task) const override;
  void project(const ProjectTask& task) const override;
  /// Of the host's memory.
  std::size_t scratch_bytes(std::int64_t d_state) const override { return host_->scratch_bytes(d_state); }

 private:
  /// The same scan where the device, or the host, reads it.
  template <typename Side>
  static ScanInputs near_inputs(Side& side, const ScanInputs& inputs);
  void scan_on_host(const ScanInputs& inputs, const ScanSummary& state, TensorView<float> y, Heartbeat& heartbeat);
  void launch(Reach& reach, DeviceScan task) const;
  const Cublas& cublas() const {
    if (!cublas_) cublas_ = std::make_unique<Cublas>(stream_.get());
    return *cublas_;
  }

  const Stream& stream_;
  int device_ = 0;
  MemorySpace& device_memory_;
  mutable ManagedMemory memory_;
  mutable std::unique_ptr<Cublas> cublas_;
  std::unique_ptr<SsmKernels> host_ = make_cpu_ssm_kernels();
};

template <typename Side>
ScanInputs CudaSsmKernels::near_inputs(Side& side, const ScanInputs& inputs) {
  ScanInputs near = inputs;
  for (AnyView* view : {&near.u, &near.delta, &near.z, &near.b, &near.c}) *view = side.in(*view);
  near.a = side.in(inputs.a, inputs.channels() * inputs.d_state());
  near.d = side.in(inputs.d, inputs.channels());
  near.delta_bias = side.in(inputs.delta_bias, inputs.channels());
  return near;
}

/// The libraries are loaded, and cuBLAS has its kernels on the device, once a product has run.
void CudaSsmKernels::warm_up() const {
  constexpr std::int64_t kSize = 512;
  check(cudaSetDevice(device_));  // of this thread
  math_libraries();
  int can = 0;
  check(cudaDeviceGetAttribute(&can, cudaDevAttrConcurrentManagedAccess, device_));
  if (can == 0) return;  // the caller's thread may be at managed memory, where the device must stand still meanwhile
  Reach reach(stream_.get());
  float* const matrices = reach.scratch<float>(3 * kSize * kSize);
  check(cudaMemsetAsync(matrices, 0, 3 * kSize * kSize * sizeof(float), stream_.get()));
  const ProjectTask task{nullptr, kSize, nullptr, kSize, nullptr, kSize, kSize, kSize, kSize, false};
  cublas().project(task, matrices, matrices + kSize * kSize, matrices + 2 * kSize * kSize);
  stream_.wait();
}

/// By the CPU's kernels.
void CudaSsmKernels::scan_on_host(const ScanInputs& inputs, const ScanSummary& state, TensorView<float> y,
                                  Heartbeat& heartbeat) {
  HostCopies copies(stream_.get());
  const std::int64_t sums = inputs.batch() * inputs.channels();
  const ScanSummary here{copies.in_out(state.delta_sum, sums), copies.in_out(state.h, sums * inputs.d_state())};
  host_->scan(near_inputs(copies, inputs), here, copies.in_out(y), heartbeat);
  copies.finish();
}

void CudaSsmKernels::launch(Reach& reach, DeviceScan task) const {
  task.workspace = reach.scratch<std::byte>(static_cast<std::int64_t>(scan_workspace_bytes(task.inputs)));
  cuda::scan(task, stream_.get());
}

void CudaSsmKernels::scan(const ScanInputs& inputs, const ScanSummary& state, TensorView<float> y,
                          Heartbeat& heartbeat) {
  if (inputs.d_state() > kMostStates) return scan_on_host(inputs, state, y, heartbeat);
  const Shape4 shape{inputs.batch(), inputs.tokens(), 1, inputs.channels()};
  require(y.data == nullptr || y.shape == shape, "y shaped like u");
  const std::int64_t sums = inputs.batch() * inputs.channels();
  const std::int64_t states = sums * inputs.d_state();
  if (sums == 0) return;
  Reach reach(stream_.get());
  DeviceScan task;
  float* const h = reach.in_out(state.h, states);
  task.h_in = h;
  task.h_out = reach.scratch<float>(states);
  task.delta_sum = reach.in_out(state.delta_sum, sums);
  if (inputs.tokens() > 0) {
    task.inputs = near_inputs(reach, inputs);
    const TensorView<float> to = reach.in_out(y);
    // Of u's memory a block reads what another may have written by then.
    float* const fresh = overlap(to, task.inputs.u) ? reach.scratch<float>(element_count(shape)) : nullptr;
    if (fresh != nullptr) {
      task.y = dense_any_view(fresh, ElementType::kFloat32, shape);
    } else if (to.data != nullptr) {
      task.y = {reinterpret_cast<std::byte*>(to.data), ElementType::kFloat32, to.shape, to.strides};
    }
    launch(reach, task);
    if (fresh != nullptr) {
      for (std::int64_t batch = 0; batch < shape[0]; ++batch) {
        const auto bytes = [](std::int64_t floats) { return static_cast<std::size_t>(floats) * sizeof(float); };
        cuda::check(cudaMemcpy2DAsync(to.row(batch, 0, 0), bytes(to.strides[1]), fresh + batch * shape[1] * shape[3],
                                      bytes(shape[3]), bytes(shape[3]), static_cast<std::size_t>(shape[1]),
                                      cudaMemcpyDeviceToDevice, stream_.get()));
      }
    }
    cuda::check(cudaMemcpyAsync(h, task.h_out, static_cast<std::size_t>(states) * sizeof(float),
                                cudaMemcpyDeviceToDevice, stream_.get()));
  } else if (task.delta_sum != nullptr) {
    cuda::check(cudaMemsetAsync(task.delta_sum, 0, static_cast<std::size_t>(sums) * sizeof(float), stream_.get()));
  }
  stream_.wait(heartbeat);
  reach.finish();
}

std::int64_t CudaSsmKernels::add_incoming(const ScanInputs& inputs, const float* h_in, TensorView<float> y,
                                          Heartbeat& heartbeat) {
  if (inputs.d_state() > kMostStates) {
    HostCopies copies(stream_.get());
    const float* const h = copies.in(h_in, inputs.batch() * inputs.channels() * inputs.d_state());
    const std::int64_t visited = host_->add_incoming(near_inputs(copies, inputs), h, copies.in_out(y), heartbeat);
    copies.finish();
    return visited;
  }
  const Shape4 shape{inputs.batch(), inputs.tokens(), 1, inputs.channels()};
  require(y.shape == shape, "y shaped like u");
  if (element_count(shape) == 0) return 0;
  Reach reach(stream_.get());
  // A scan from that state whose inputs are zeros: one zero a channel, read for every token.
  DeviceScan task;
  task.inputs = near_inputs(reach, inputs);
  float* const zeros = reach.scratch<float>(shape[3]);
  cuda::check(cudaMemsetAsync(zeros, 0, static_cast<std::size_t>(shape[3]) * sizeof(float), stream_.get()));
  task.inputs.u = dense_any_view(static_cast<const void*>(zeros), ElementType::kFloat32, shape);
  task.inputs.u.strides = {0, 0, 0, 1};
  task.h_in = reach.in(h_in, inputs.batch() * inputs.channels() * inputs.d_state());
  float* const fresh = reach.scratch<float>(element_count(shape));
  task.y = dense_any_view(fresh, ElementType::kFloat32, shape);
  launch(reach, task);
  add(reach.in_out(y), dense_view<const float>(fresh, shape), stream_.get());
  stream_.wait(heartbeat);
  reach.finish();
  return element_count(shape);
}

void CudaSsmKernels::join(const float* a, std::int64_t batch, std::int64_t channels, std::int64_t d_state,
                          const ScanSummary& near, const ScanSummary& far) const {
  Reach reach(stream_.get());
  const std::int64_t sums = batch * channels;
  const ScanSummary near_here{reach.in_out(near.delta_sum, sums), reach.in_out(near.h, sums * d_state)};
  // Only read, as the interface's pointers cannot say.
  const auto read = [&](const float* from, std::int64_t count) { return const_cast<float*>(reach.in(from, count)); };
  const ScanSummary far_here{read(far.delta_sum, sums), read(far.h, sums * d_state)};
  join_scans(reach.in(a, channels * d_state), batch, channels, d_state, near_here, far_here, stream_.get());
  reach.finish();
}

void CudaSsmKernels::convert(const AnyView& from, const MutableAnyView& to) const {
  require(to.shape == from.shape, "views of one shape");
  if (element_count(from.shape) == 0) return;
  Reach reach(stream_.get());
  cuda::convert(reach.in(from), reach.out(to), stream_.get());
  reach.finish();
}

void CudaSsmKernels::conv1d(const ConvTask& task) const {
  DeviceConv conv{task.halo, task.in, task.out, task.weight, task.bias, task.width};
  conv.has_silu = true;
  convolve_from_anywhere(conv, stream_.get());
}

void CudaSsmKernels::project(const ProjectTask& task) const {
  if (task.rows * task.out_dim == 0) return;
  const auto extent = [](std::int64_t rows, std::int64_t stride, std::int64_t row) {
    return (rows - 1) * stride + row;
  };
  Reach reach(stream_.get());
  const float* const in = reach.in(task.in, extent(task.rows, task.in_stride, task.in_dim));
  const float* const weight = reach.in(task.weight, extent(task.out_dim, task.weight_stride, task.in_dim));
  const std::int64_t out_extent = extent(task.rows, task.out_stride, task.out_dim);
  const bool is_all_written = !task.adds && task.out_stride == task.out_dim;
  cublas().project(task, in, weight,
                   is_all_written ? reach.out(task.out, out_extent) : reach.in_out(task.out, out_extent));
  reach.finish();
}

}  // namespace

void convolve_from_anywhere(DeviceConv task, cudaStream_t stream) {
  const std::int64_t channels = task.in.shape[3];
  require(task.width >= 1 && task.out.shape == task.in.shape, "a convolution's output shaped as its input");
  require(task.halo.shape[1] == task.width - 1 && task.halo.shape[3] == channels, "width - 1 inputs before the first");
  if (element_count(task.in.shape) == 0) return;
  Reach reach(stream);
  task.halo = reach.in(task.halo);
  task.in = reach.in(task.in);
  task.out = reach.in_out(task.out);
  task.weight = reach.in(task.weight, channels * task.width);
  task.bias = reach.in(task.bias, channels);
  convolve(task, stream);
  reach.finish();
}

std::unique_ptr<SsmKernels> make_ssm_kernels(const Stream& stream, MemorySpace& memory) {
  return std::make_unique<CudaSsmKernels>(stream, memory);
}

}  // namespace ringscan::cuda
