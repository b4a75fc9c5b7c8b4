#include <algorithm>
#include <limits>
#include <string>

#include "core/error.hpp"
#include "kernels/cpu/fft_convolution.hpp"
#include "kernels/cuda/block_backend.hpp"
#include "kernels/cuda/check.hpp"
#include "kernels/cuda/math_libraries.hpp"
#include "kernels/cuda/reach.hpp"

namespace ringscan::cuda {
namespace {

void require(bool holds, const char* wanted) {
  if (!holds) throw failure(std::string("cuda chela kernels: ") + wanted);
}

/// A plan of cuFFT on a stream.
class Transform {
 public:
  Transform(std::int64_t length, cufftType type, cudaStream_t stream) : library_(math_libraries()) {
    check(library_.cufft_plan(&plan_, static_cast<int>(length), type, 1), "cufftPlan1d");
    check(library_.cufft_set_stream(plan_, stream), "cufftSetStream");
  }
  ~Transform() { library_.cufft_destroy(plan_); }
  Transform(const Transform&) = delete;
  Transform& operator=(const Transform&) = delete;

  void forward(float* signal, float2* spectrum) const {
    check(library_.cufft_forward(plan_, signal, spectrum), "cufftExecR2C");
  }
  void backward(float2* spectrum, float* signal) const {
    check(library_.cufft_backward(plan_, spectrum, signal), "cufftExecC2R");
  }

 private:
  const MathLibraries& library_;
  cufftHandle plan_ = 0;
};

/// Overlap-save, in the blocks that the CPU takes.
class CudaLongConvolution final : public LongConvolution {
 public:
  CudaLongConvolution(std::int64_t tokens, std::int64_t width, cudaStream_t stream)
      : tokens_(tokens),
        width_(width),
        blocks_(cpu::fft_blocks(tokens, width)),
        stream_(stream),
        memory_(stream),
        forward_(checked_length(), CUFFT_R2C, stream),
        backward_(blocks_.length, CUFFT_C2R, stream),
        inputs_(memory_.scratch<float>(tokens + width - 1)),
        signal_(memory_.scratch<float>(blocks_.length)),
        spectrum_(memory_.scratch<float2>(bins())),
        taps_spectrum_(memory_.scratch<float2>(bins())) {}

  std::int64_t tokens() const override { return tokens_; }
  std::int64_t width() const override { return width_; }

  void set_taps(std::span<const float> taps) override {
    fill(signal_, taps.data(), std::ssize(taps), blocks_.length);
    forward_.forward(signal_, taps_spectrum_);
    cuda::check(cudaStreamSynchronize(stream_));
  }

  void run(std::span<const float> past, std::span<float> values) override {
    const std::int64_t before = width_ - 1;
    fill(inputs_, past.data(), std::ssize(past), before);
    fill(inputs_ + before, values.data(), tokens_, tokens_);
    Reach reach(stream_);
    float* const out = reach.in_out(values.data(), tokens_);
    for (std::int64_t begin = 0; begin < tokens_; begin += blocks_.outputs) {
      const std::int64_t count = std::min(blocks_.outputs, tokens_ - begin);
      fill(signal_, inputs_ + begin, before + count, blocks_.length);
      forward_.forward(signal_, spectrum_);
      // Transforms are not normalised.
      multiply_complex(spectrum_, taps_spectrum_, 1.0f / static_cast<float>(blocks_.length), bins(), stream_);
      backward_.backward(spectrum_, signal_);
      // What wraps around falls on the first width - 1 outputs, which belong to the block before.
      copy(out + begin, signal_ + before, count);
    }
    reach.finish();
  }

 private:
  std::int64_t checked_length() const {
    if (blocks_.length <= std::numeric_limits<int>::max()) return blocks_.length;
    throw failure("a convolution over " + std::to_string(tokens_) + " tokens with " + std::to_string(width_) +
                  " taps wants a transform of " + std::to_string(blocks_.length) + " elements; at most 2^31 - 1");
  }
  std::int64_t bins() const { return blocks_.length / 2 + 1; }

  void copy(float* to, const float* from, std::int64_t count) const {
    if (count == 0) return;
    cuda::check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(count) * sizeof(float), cudaMemcpyDefault, stream_));
  }
  /// `count` elements, and zeros up to `size`.
  void fill(float* to, const float* from, std::int64_t count, std::int64_t size) const {
    copy(to, from, count);
    if (count == size) return;
    cuda::check(cudaMemsetAsync(to + count, 0, static_cast<std::size_t>(size - count) * sizeof(float), stream_));
  }

  std::int64_t tokens_;
  std::int64_t width_;
  cpu::FftBlocks blocks_;
  cudaStream_t stream_;
  Reach memory_;
  Transform forward_;
  Transform backward_;
  float* inputs_;  // [width - 1 + tokens]
  float* signal_;
  float2* spectrum_;
  float2* taps_spectrum_;
};

class CudaChelaKernels final : public ChelaKernels {
 public:
  explicit CudaChelaKernels(const Stream& stream) : stream_(stream.get()) {}

  void convolve(const PlainConvTask& task) const override {
    DeviceConv conv{task.halo, task.in, task.out, task.taps, nullptr, task.width};
    conv.newest_first = true;
    convolve_from_anywhere(conv, stream_);
  }

  std::unique_ptr<LongConvolution> plan_convolution(std::int64_t tokens, std::int64_t width) const override {
    require(tokens >= 1 && width >= 1, "a token and a tap");
    return std::make_unique<CudaLongConvolution>(tokens, width, stream_);
  }
  /// Of the host's memory.
  std::size_t convolution_bytes(std::int64_t, std::int64_t) const override { return 0; }

  void affine(const float* z, std::int64_t rows, std::span<const float> factor, std::span<const float> offset,
              float* out) const override {
    const auto channels = std::ssize(factor);
    require(std::ssize(offset) == channels, "an offset for every factor");
    if (rows * channels == 0) return;
    Reach reach(stream_);
    const float* const in = z == out ? nullptr : reach.in(z, rows * channels);
    float* const to = reach.in_out(out, rows * channels);
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
  cudaStream_t stream_;
};

}  // namespace

std::unique_ptr<ChelaKernels> make_chela_kernels(const Stream& stream) {
  return std::make_unique<CudaChelaKernels>(stream);
}

}  // namespace ringscan::cuda
