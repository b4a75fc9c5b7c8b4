#include "kernels/cuda/long_convolution.hpp"

#include <algorithm>
#include <limits>
#include <string>

#include "core/error.hpp"
#include "core/token_run.hpp"
#include "kernels/cuda/check.hpp"
#include "kernels/cuda/long_conv_ops.hpp"
#include "kernels/cuda/math_libraries.hpp"
#include "kernels/cuda/reach.hpp"
#include "kernels/fft_blocks.hpp"

namespace ringscan::cuda {
namespace {

void require(bool holds, const char* wanted) {
  if (!holds) throw failure(std::string("cuda long convolution: ") + wanted);
}

std::int64_t bins_of(std::int64_t length) {
  return length / 2 + 1;
}

/// What goes through the transforms together.
struct Group {
  std::int64_t lines = 1;
  std::int64_t pieces = 1;  ///< of each line; all of them where there is more than one line
};

Group group_of(const FftBlocks& blocks, std::int64_t tokens, std::int64_t width, std::int64_t channels,
               std::int64_t scratch_bytes) {
  constexpr std::int64_t kFloat = sizeof(float), kComplex = sizeof(float2);
  const std::int64_t all_pieces = ceil_div(tokens, blocks.outputs);
  const std::int64_t spectrum = bins_of(blocks.length) * kComplex;
  // Signal and spectrum, and of cuFFT's work area about as much as one of them.
  const std::int64_t piece = blocks.length * kFloat + 2 * spectrum;
  const std::int64_t line = spectrum + (tokens + width - 1) * kFloat;
  const std::int64_t most = scratch_bytes / (all_pieces * piece + line);
  if (most < 1) return {1, std::clamp<std::int64_t>((scratch_bytes - line) / piece, 1, all_pieces)};
  // Groups of one size, since each goes through whole transforms.
  const std::int64_t groups = ceil_div(channels, std::min(most, channels));
  return {ceil_div(channels, groups), all_pieces};
}

/// A plan of cuFFT for `batch` dense signals or spectra, on a stream; its work area is the caller's.
class Transform {
 public:
  Transform(std::int64_t length, cufftType type, std::int64_t batch, cudaStream_t stream) {
    const MathLibraries& library = handle_.library;
    check(library.cufft_create(&handle_.plan), "cufftCreate");
    handle_.is_made = true;
    check(library.cufft_set_auto_allocation(handle_.plan, 0), "cufftSetAutoAllocation");
    int size = static_cast<int>(length);
    int bins = static_cast<int>(bins_of(length));
    int& in = type == CUFFT_R2C ? size : bins;
    int& out = type == CUFFT_R2C ? bins : size;
    check(library.cufft_make_plan_many(handle_.plan, 1, &size, &in, 1, in, &out, 1, out, type, static_cast<int>(batch),
                                       &work_bytes_),
          "cufftMakePlanMany");
    check(library.cufft_set_stream(handle_.plan, stream), "cufftSetStream");
  }

  std::size_t work_bytes() const { return work_bytes_; }
  void set_work_area(void* area) const {
    check(handle_.library.cufft_set_work_area(handle_.plan, area), "cufftSetWorkArea");
  }
  void forward(float* signal, float2* spectrum) const {
    check(handle_.library.cufft_forward(handle_.plan, signal, spectrum), "cufftExecR2C");
  }
  void backward(float2* spectrum, float* signal) const {
    check(handle_.library.cufft_backward(handle_.plan, spectrum, signal), "cufftExecC2R");
  }

 private:
  struct Handle {
    Handle() = default;
    ~Handle() {
      if (is_made) library.cufft_destroy(plan);
    }
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;

    const MathLibraries& library = math_libraries();
    cufftHandle plan = 0;
    bool is_made = false;
  };

  Handle handle_;
  std::size_t work_bytes_ = 0;
};

/// Overlap-save. A line is brought together with what is before it; its outputs then take the line's place from the
/// front on, width - 1 elements before the inputs of the same tokens, which the pieces behind still need.
class CudaLongConvolution final : public LongConvolution {
 public:
  CudaLongConvolution(std::int64_t tokens, std::int64_t width, std::int64_t channels, cudaStream_t stream,
                      std::int64_t scratch_bytes)
      : tokens_(tokens),
        width_(width),
        blocks_(fft_blocks(tokens, width)),
        group_(group_of(blocks_, tokens, width, channels, scratch_bytes)),
        stream_(stream),
        memory_(stream),
        forward_(checked_length(), CUFFT_R2C, group_.lines * group_.pieces, stream),
        backward_(blocks_.length, CUFFT_C2R, group_.lines * group_.pieces, stream),
        taps_forward_(blocks_.length, CUFFT_R2C, group_.lines, stream),
        lines_(memory_.scratch<float>(group_.lines * line_stride())),
        signals_(memory_.scratch<float>(group_.lines * group_.pieces * blocks_.length)),
        spectra_(memory_.scratch<float2>(group_.lines * group_.pieces * bins_of(blocks_.length))),
        taps_spectra_(memory_.scratch<float2>(group_.lines * bins_of(blocks_.length))) {
    // One after the other on one stream, they share it.
    const std::size_t bytes =
        std::max({forward_.work_bytes(), backward_.work_bytes(), taps_forward_.work_bytes(), sizeof(float2)});
    auto* const area = memory_.scratch<std::byte>(static_cast<std::int64_t>(bytes));
    for (const Transform* transform : {&forward_, &backward_, &taps_forward_}) transform->set_work_area(area);
  }
  /// cuFFT may free a plan's tables at once.
  ~CudaLongConvolution() override { cudaStreamSynchronize(stream_); }

  std::int64_t tokens() const override { return tokens_; }
  std::int64_t width() const override { return width_; }

  void run(const RowsConvTask& task) override {
    const Shape4& shape = task.values.shape;
    const std::int64_t before = width_ - 1, channels = shape[3];
    require(shape[1] == tokens_, "values of as many tokens as planned");
    require(task.halo.data == nullptr || task.halo.shape == Shape4{shape[0], before, 1, channels},
            "a halo of width - 1 rows");
    Reach reach(stream_);
    const TensorView<const float> halo = reach.in(task.halo);
    const TensorView<float> values = reach.in_out(task.values);
    const float* const taps = reach.in(task.taps, channels * width_);
    for (std::int64_t first = 0; first < channels; first += group_.lines) {
      const std::int64_t count = std::min(group_.lines, channels - first);
      load_taps(taps + first * width_, count);
      for (std::int64_t batch = 0; batch < shape[0]; ++batch) {
        float* const rows = values.row(batch, 0, 0) + first;
        const std::int64_t stride = values.strides[1];
        if (halo.data == nullptr) {
          clear_past(count);
        } else {
          transpose({halo.row(batch, 0, 0) + first, halo.strides[1], lines_, line_stride(), before, count}, stream_);
        }
        transpose({rows, stride, lines_ + before, line_stride(), tokens_, count}, stream_);
        convolve(count);
        transpose({lines_, line_stride(), rows, stride, count, tokens_}, stream_);
      }
    }
    reach.finish();
  }

  void run(const LinesConvTask& task) override {
    const std::int64_t before = width_ - 1;
    Reach reach(stream_);
    const float* const past = reach.in(task.past, task.channels * before);
    float* const values = reach.in_out(task.values, task.channels * tokens_);
    const float* const taps = reach.in(task.taps, task.channels * width_);
    for (std::int64_t first = 0; first < task.channels; first += group_.lines) {
      const std::int64_t count = std::min(group_.lines, task.channels - first);
      load_taps(taps + first * width_, count);
      if (past == nullptr) {
        clear_past(count);
      } else {
        copy_lines(lines_, line_stride(), past + first * before, before, before, count);
      }
      float* const lines = values + first * tokens_;
      copy_lines(lines_ + before, line_stride(), lines, tokens_, tokens_, count);
      convolve(count);
      copy_lines(lines, tokens_, lines_, line_stride(), tokens_, count);
    }
    reach.finish();
  }

 private:
  std::int64_t checked_length() const {
    if (blocks_.length <= std::numeric_limits<int>::max()) return blocks_.length;
    throw failure("a convolution over " + std::to_string(tokens_) + " tokens with " + std::to_string(width_) +
                  " taps wants a transform of " + std::to_string(blocks_.length) + " elements; at most 2^31 - 1");
  }
  std::int64_t line_stride() const { return width_ - 1 + tokens_; }
  static std::size_t bytes_of(std::int64_t floats) { return static_cast<std::size_t>(floats) * sizeof(float); }

  /// taps [count, width], on the device.
  void load_taps(const float* taps, std::int64_t count) {
    Pieces pieces;
    pieces.lines = const_cast<float*>(taps);  // only read, to be cut
    pieces.line_stride = width_;
    pieces.num_lines = count;
    pieces.signals = signals_;
    pieces.length = blocks_.length;
    cut_pieces(pieces, width_, stream_);
    taps_forward_.forward(signals_, taps_spectra_);
  }

  void clear_past(std::int64_t count) const {
    const std::int64_t before = width_ - 1;
    if (before == 0) return;
    // One line may be longer than a pitch may be.
    cuda::check(count == 1 ? cudaMemsetAsync(lines_, 0, bytes_of(before), stream_)
                           : cudaMemset2DAsync(lines_, bytes_of(line_stride()), 0, bytes_of(before),
                                               static_cast<std::size_t>(count), stream_));
  }

  void copy_lines(float* to, std::int64_t to_stride, const float* from, std::int64_t from_stride, std::int64_t length,
                  std::int64_t count) const {
    if (length == 0) return;
    cuda::check(count == 1 ? cudaMemcpyAsync(to, from, bytes_of(length), cudaMemcpyDeviceToDevice, stream_)
                           : cudaMemcpy2DAsync(to, bytes_of(to_stride), from, bytes_of(from_stride), bytes_of(length),
                                               static_cast<std::size_t>(count), cudaMemcpyDeviceToDevice, stream_));
  }

  /// The first `count` lines become their outputs, from the front on.
  void convolve(std::int64_t count) {
    Pieces run;
    run.lines = lines_;
    run.line_stride = line_stride();
    run.num_lines = count;
    run.signals = signals_;
    run.length = blocks_.length;
    run.step = blocks_.outputs;
    const std::int64_t all_pieces = ceil_div(tokens_, blocks_.outputs);
    for (run.first_piece = 0; run.first_piece < all_pieces; run.first_piece += group_.pieces) {
      run.pieces = std::min(group_.pieces, all_pieces - run.first_piece);
      cut_pieces(run, line_stride(), stream_);
      // A group's last signals may be of no line: what comes of those goes nowhere.
      forward_.forward(signals_, spectra_);
      // Transforms are not normalised.
      multiply_spectra(spectra_, taps_spectra_, 1.0f / static_cast<float>(blocks_.length), count, run.pieces,
                       bins_of(blocks_.length), stream_);
      backward_.backward(spectra_, signals_);
      // What wraps around falls on the first width - 1 outputs, which belong to the piece before.
      join_pieces(run, width_ - 1, tokens_, stream_);
    }
  }

  std::int64_t tokens_;
  std::int64_t width_;
  FftBlocks blocks_;
  Group group_;
  cudaStream_t stream_;
  Reach memory_;
  Transform forward_;
  Transform backward_;
  Transform taps_forward_;
  float* lines_;          // [lines of a group][width - 1 and tokens]
  float* signals_;        // [lines, pieces][length]
  float2* spectra_;       // [lines, pieces][bins]
  float2* taps_spectra_;  // [lines][bins]
};

}  // namespace

std::unique_ptr<LongConvolution> make_long_convolution(std::int64_t tokens, std::int64_t width, std::int64_t channels,
                                                       cudaStream_t stream, std::int64_t scratch_bytes) {
  return std::make_unique<CudaLongConvolution>(tokens, width, channels, stream, scratch_bytes);
}

std::int64_t convolution_lines(std::int64_t tokens, std::int64_t width) {
  constexpr std::int64_t kAny = std::numeric_limits<std::int32_t>::max();
  return group_of(fft_blocks(tokens, width), tokens, width, kAny, kConvolutionScratch).lines;
}

}  // namespace ringscan::cuda
