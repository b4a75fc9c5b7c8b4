#include "kernels/cpu/fft_convolution.hpp"

#include <fftw3.h>

#include <algorithm>
#include <limits>
#include <mutex>
#include <string>

#include "core/buffer.hpp"
#include "core/error.hpp"
#include "kernels/cpu/chela_ops.hpp"
#include "kernels/cpu/flush_denormals.hpp"
#include "kernels/fft_blocks.hpp"

namespace ringscan::cpu {
namespace {

/// FFTW's planner is one for the process, and not made for threads.
std::mutex& planner_mutex() {
  static std::mutex mutex;
  return mutex;
}

struct PlanDeleter {
  void operator()(fftwf_plan plan) const {
    const std::lock_guard lock(planner_mutex());
    fftwf_destroy_plan(plan);
  }
};
using Plan = std::unique_ptr<std::remove_pointer_t<fftwf_plan>, PlanDeleter>;

class FftConvolution final : public LongConvolution {
 public:
  FftConvolution(std::int64_t tokens, std::int64_t width)
      : tokens_(tokens),
        width_(width),
        blocks_(fft_blocks(tokens, width)),
        inputs_(static_cast<std::size_t>(tokens + width - 1) * sizeof(float)),
        signal_(static_cast<std::size_t>(blocks_.length) * sizeof(float)),
        spectrum_(static_cast<std::size_t>(blocks_.length / 2 + 1) * sizeof(fftwf_complex)),
        taps_spectrum_(spectrum_.size_bytes()) {
    if (blocks_.length > std::numeric_limits<int>::max()) {
      throw failure("a convolution over " + std::to_string(tokens) + " tokens with " + std::to_string(width) +
                    " taps wants a transform of " + std::to_string(blocks_.length) + " elements; at most 2^31 - 1");
    }
    const int length = static_cast<int>(blocks_.length);
    const std::lock_guard lock(planner_mutex());
    // FFTW_ESTIMATE: measured plans would make the bits depend on how busy the machine was.
    forward_.reset(fftwf_plan_dft_r2c_1d(length, signal_.as<float>(), spectrum_.as<fftwf_complex>(), FFTW_ESTIMATE));
    backward_.reset(fftwf_plan_dft_c2r_1d(length, spectrum_.as<fftwf_complex>(), signal_.as<float>(), FFTW_ESTIMATE));
    if (forward_ == nullptr || backward_ == nullptr) throw failure("FFTW made no plan");
  }

  std::int64_t tokens() const override { return tokens_; }
  std::int64_t width() const override { return width_; }

  void run(const RowsConvTask& task) override {
    const Shape4& shape = task.values.shape;
    const std::int64_t before = width_ - 1, tokens = tokens_, stride = task.values.strides[1];
    float* const line = inputs_.as<float>();
    for (std::int64_t channel = 0; channel < shape[3]; ++channel) {
      set_taps(task.taps + channel * width_);
      for (std::int64_t batch = 0; batch < shape[0]; ++batch) {
        float* const column = task.values.row(batch, 0, 0) + channel;
        if (task.halo.data == nullptr) std::fill_n(line, before, 0.0f);
        for (std::int64_t t = 0; t < before && task.halo.data != nullptr; ++t) {
          line[t] = task.halo.row(batch, t, 0)[channel];
        }
        for (std::int64_t t = 0; t < tokens; ++t) line[before + t] = column[t * stride];
        convolve();
        for (std::int64_t t = 0; t < tokens; ++t) column[t * stride] = line[t];
      }
    }
  }

  void run(const LinesConvTask& task) override {
    const std::int64_t before = width_ - 1;
    float* const line = inputs_.as<float>();
    for (std::int64_t channel = 0; channel < task.channels; ++channel) {
      set_taps(task.taps + channel * width_);
      float* const values = task.values + channel * tokens_;
      if (task.past == nullptr) std::fill_n(line, before, 0.0f);
      if (task.past != nullptr) std::copy_n(task.past + channel * before, before, line);
      std::copy_n(values, tokens_, line + before);
      convolve();
      std::copy_n(line, tokens_, values);
    }
  }

 private:
  void set_taps(const float* taps) {
    float* const signal = signal_.as<float>();
    // FFTW's transforms are not normalised.
    const float factor = 1.0f / static_cast<float>(blocks_.length);
    std::fill(std::copy_n(taps, width_, signal), signal + blocks_.length, 0.0f);
    fftwf_execute(forward_.get());
    const auto count = static_cast<std::size_t>(blocks_.length + 2);
    std::transform(spectrum_.as<float>(), spectrum_.as<float>() + count, taps_spectrum_.as<float>(),
                   [factor](float x) { return x * factor; });
  }

  /// The line in inputs_ becomes its outputs, from the front on: width - 1 elements before the inputs of the same
  /// tokens, which the blocks behind still need.
  void convolve() {
    const FlushDenormals flush;
    const std::int64_t before = width_ - 1;
    float* const line = inputs_.as<float>();
    float* const signal = signal_.as<float>();
    for (std::int64_t begin = 0; begin < tokens_; begin += blocks_.outputs) {
      const std::int64_t count = std::min(blocks_.outputs, tokens_ - begin);
      std::fill(std::copy_n(line + begin, before + count, signal), signal + blocks_.length, 0.0f);
      fftwf_execute(forward_.get());
      ops_.multiply_complex(spectrum_.as<float>(), taps_spectrum_.as<float>(),
                            static_cast<std::size_t>(blocks_.length / 2 + 1));
      fftwf_execute(backward_.get());
      // What wraps around falls on the first width - 1 outputs, which belong to the block before.
      std::copy_n(signal + before, count, line + begin);
    }
  }

  std::int64_t tokens_;
  std::int64_t width_;
  FftBlocks blocks_;
  Buffer inputs_;  // [width - 1 + tokens]
  Buffer signal_;
  Buffer spectrum_;
  Buffer taps_spectrum_;
  Plan forward_;
  Plan backward_;
  const ChelaOps& ops_ = chela_ops();
};

}  // namespace

std::unique_ptr<LongConvolution> make_fft_convolution(std::int64_t tokens, std::int64_t width) {
  return std::make_unique<FftConvolution>(tokens, width);
}

std::size_t fft_convolution_bytes(std::int64_t tokens, std::int64_t width) {
  const FftBlocks blocks = fft_blocks(tokens, width);
  // FFTW_ESTIMATE allocates about a transform more while it executes.
  return static_cast<std::size_t>(tokens + width - 1 + 4 * (blocks.length + 2)) * sizeof(float);
}

}  // namespace ringscan::cpu
