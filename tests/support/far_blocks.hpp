#pragma once
// The CPU's block kernels with a work_memory() that transports carry as they do a device's.

#include <memory>
#include <utility>

#include "kernels/chela_kernels.hpp"
#include "kernels/ssm_kernels.hpp"
#include "tests/support/far_memory.hpp"

namespace ringscan::test {

class FarSsm final : public SsmKernels {
 public:
  explicit FarSsm(FarMemory& memory) : memory_(memory) {}

  MemorySpace& work_memory() const override { return memory_; }
  void scan(const ScanInputs& inputs, const ScanSummary& state, TensorView<float> y, Heartbeat& heartbeat) override {
    inner_->scan(inputs, state, y, heartbeat);
  }
  std::int64_t add_incoming(const ScanInputs& inputs, const float* h_in, TensorView<float> y,
                            Heartbeat& heartbeat) override {
    return inner_->add_incoming(inputs, h_in, y, heartbeat);
  }
  void join(const float* a, std::int64_t batch, std::int64_t channels, std::int64_t d_state, const ScanSummary& near,
            const ScanSummary& far) const override {
    inner_->join(a, batch, channels, d_state, near, far);
  }
  void convert(const AnyView& from, const MutableAnyView& to) const override { inner_->convert(from, to); }
  void conv1d(const ConvTask& task) const override { inner_->conv1d(task); }
  void project(const ProjectTask& task) const override { inner_->project(task); }
  std::size_t scratch_bytes(std::int64_t d_state) const override { return inner_->scratch_bytes(d_state); }

 private:
  FarMemory& memory_;
  std::unique_ptr<SsmKernels> inner_ = make_cpu_ssm_kernels();
};

/// A halo of rows elsewhere than wanted is an error.
class FarConvolution final : public LongConvolution {
 public:
  FarConvolution(std::unique_ptr<LongConvolution> inner, const FarMemory& memory, bool wants_far_halo)
      : inner_(std::move(inner)), memory_(memory), wants_far_halo_(wants_far_halo) {}

  std::int64_t tokens() const override { return inner_->tokens(); }
  std::int64_t width() const override { return inner_->width(); }
  void run(const RowsConvTask& task) override {
    const auto bytes_of = [](const Shape4& shape) {
      return static_cast<std::size_t>(element_count(shape)) * sizeof(float);
    };
    memory_.require(task.values.data, bytes_of(task.values.shape), true);
    memory_.require(task.halo.data, bytes_of(task.halo.shape), wants_far_halo_);
    inner_->run(task);
  }
  void run(const LinesConvTask& task) override { inner_->run(task); }

 private:
  std::unique_ptr<LongConvolution> inner_;
  const FarMemory& memory_;
  bool wants_far_halo_;
};

class FarChela final : public ChelaKernels {
 public:
  FarChela(FarMemory& memory, bool wants_far_halo) : memory_(memory), wants_far_halo_(wants_far_halo) {}

  MemorySpace& work_memory() const override { return memory_; }
  void settle(Heartbeat& heartbeat) const override { heartbeat.beat(); }
  void convolve(const PlainConvTask& task) const override { inner_->convolve(task); }
  std::unique_ptr<LongConvolution> plan_convolution(std::int64_t tokens, std::int64_t width,
                                                    std::int64_t channels) const override {
    return std::make_unique<FarConvolution>(inner_->plan_convolution(tokens, width, channels), memory_,
                                            wants_far_halo_);
  }
  std::size_t convolution_bytes(std::int64_t tokens, std::int64_t width) const override {
    return inner_->convolution_bytes(tokens, width);
  }
  void transpose(const TransposeTask& task) const override { inner_->transpose(task); }
  void affine(const float* z, std::int64_t rows, std::span<const float> factor, std::span<const float> offset,
              float* out) const override {
    inner_->affine(z, rows, factor, offset, out);
  }
  void silu(std::span<float> values) const override { inner_->silu(values); }
  void gate(std::span<float> values, const float* other) const override { inner_->gate(values, other); }

 private:
  FarMemory& memory_;
  bool wants_far_halo_;
  std::unique_ptr<ChelaKernels> inner_ = make_cpu_chela_kernels();
};

}  // namespace ringscan::test
