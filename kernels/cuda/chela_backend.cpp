#include <string>

#include "core/error.hpp"
#include "kernels/cuda/block_backend.hpp"
#include "kernels/cuda/long_conv_ops.hpp"
#include "kernels/cuda/long_convolution.hpp"
#include "kernels/cuda/reach.hpp"

namespace ringscan::cuda {
namespace {

void require(bool holds, const char* wanted) {
  if (!holds) throw failure(std::string("cuda chela kernels: ") + wanted);
}

class CudaChelaKernels final : public ChelaKernels {
 public:
  CudaChelaKernels(const Stream& stream, MemorySpace& memory)
      : owner_(stream), stream_(stream.get()), memory_(memory) {}

  MemorySpace& work_memory() const override { return memory_; }
  void settle(Heartbeat& heartbeat) const override { owner_.wait(heartbeat); }

  void convolve(const PlainConvTask& task) const override {
    DeviceConv conv{task.halo, task.in, task.out, task.taps, nullptr, task.width};
    conv.newest_first = true;
    convolve_from_anywhere(conv, stream_);
  }

  std::unique_ptr<LongConvolution> plan_convolution(std::int64_t tokens, std::int64_t width,
                                                    std::int64_t channels) const override {
    require(tokens >= 1 && width >= 1 && channels >= 1, "a token, a tap and a channel");
    return make_long_convolution(tokens, width, channels, stream_);
  }
  std::size_t convolution_bytes(std::int64_t, std::int64_t) const override { return 0; }
  std::int64_t lines_at_once(std::int64_t tokens, std::int64_t width) const override {
    return convolution_lines(tokens, width);
  }

  void transpose(const TransposeTask& task) const override {
    if (task.rows == 0 || task.columns == 0) return;
    Reach reach(stream_);
    TransposeTask near = task;
    near.from = reach.in(task.from, (task.rows - 1) * task.from_stride + task.columns);
    const std::int64_t extent = (task.columns - 1) * task.to_stride + task.rows;
    near.to = task.to_stride == task.rows ? reach.out(task.to, extent) : reach.in_out(task.to, extent);
    cuda::transpose(near, stream_);
    reach.finish();
  }

  void affine(const float* z, std::int64_t rows, std::span<const float> factor, std::span<const float> offset,
              float* out) const override {
    const auto channels = std::ssize(factor);
    require(std::ssize(offset) == channels, "an offset for every factor");
    if (rows * channels == 0) return;
    Reach reach(stream_);
    const float* const in = z == out ? nullptr : reach.in(z, rows * channels);
    float* const to = z == out ? reach.in_out(out, rows * channels) : reach.out(out, rows * channels);
    cuda::affine(in == nullptr ? to : in, rows, channels, reach.in(factor.data(), channels),
                 reach.in(offset.data(), channels), to, stream_);
    reach.finish();
  }
  void silu(std::span<float> values) const override { gate(values, nullptr); }
  void gate(std::span<float> values, const float* other) const override {
    Reach reach(stream_);
    const auto count = std::ssize(values);
    cuda::gate(reach.in_out(values.data(), count), reach.in(other, count), count, stream_);
    reach.finish();
  }

 private:
  const Stream& owner_;
  cudaStream_t stream_;
  MemorySpace& memory_;
};

}  // namespace

std::unique_ptr<ChelaKernels> make_chela_kernels(const Stream& stream, MemorySpace& memory) {
  return std::make_unique<CudaChelaKernels>(stream, memory);
}

}  // namespace ringscan::cuda
