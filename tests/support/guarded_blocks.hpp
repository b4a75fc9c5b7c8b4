#pragma once
// The CPU's block kernels with a work_memory() that faults wherever anything but a kernel, or a copy of the memory
// space, touches it: what passes must not do on a device, found without one.

#include <sys/mman.h>

#include <cstring>
#include <map>
#include <memory>
#include <utility>

#include "core/error.hpp"
#include "core/memory_space.hpp"
#include "kernels/chela_kernels.hpp"
#include "kernels/ssm_kernels.hpp"
#include "tests/support/forwarding_kernels.hpp"

namespace ringscan::test {

/// Of one thread. Poisoned with NaN.
class GuardedMemory final : public MemorySpace {
 public:
  /// The memory may be touched for as long as one of these lives.
  class Opened {
   public:
    explicit Opened(GuardedMemory& memory) : memory_(memory) {
      if (memory_.open_++ == 0) memory_.protect(PROT_READ | PROT_WRITE);
    }
    ~Opened() {
      if (--memory_.open_ == 0) memory_.protect(PROT_NONE);
    }
    Opened(const Opened&) = delete;
    Opened& operator=(const Opened&) = delete;

   private:
    GuardedMemory& memory_;
  };

  std::string_view name() const override { return "guarded"; }
  bool is_host() const override { return false; }
  void* allocate(std::size_t bytes) override {
    void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) throw failure("out of memory");
    std::memset(data, 0xff, bytes);
    blocks_[data] = bytes;
    if (open_ == 0) ::mprotect(data, bytes, PROT_NONE);
    return data;
  }
  void release(void* data, std::size_t bytes) noexcept override {
    blocks_.erase(data);
    ::munmap(data, bytes);
  }
  void copy_in(void* to, const void* from, std::size_t bytes) override {
    const Opened opened(*this);
    host_memory().copy_in(to, from, bytes);
  }
  void copy_out(void* to, const void* from, std::size_t bytes) override {
    const Opened opened(*this);
    host_memory().copy_out(to, from, bytes);
  }
  void fill_zero(void* data, std::size_t bytes) override {
    const Opened opened(*this);
    host_memory().fill_zero(data, bytes);
  }
  void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t row_bytes,
                 std::size_t rows) override {
    const Opened opened(*this);
    host_memory().copy_rows(to, to_pitch, from, from_pitch, row_bytes, rows);
  }
  std::size_t free_bytes() const override { return std::size_t{1} << 40; }

 private:
  void protect(int access) {
    for (const auto& [data, bytes] : blocks_) ::mprotect(data, bytes, access);
  }

  std::map<void*, std::size_t> blocks_;
  int open_ = 0;
};

class GuardedSsm final : public SsmKernels {
 public:
  explicit GuardedSsm(GuardedMemory& memory) : memory_(memory) {}

  MemorySpace& work_memory() const override { return memory_; }
  std::int64_t chunk_tokens() const override { return 48; }
  bool summarizes_first() const override { return false; }
  void scan(const ScanInputs& inputs, const ScanSummary& state, TensorView<float> y, Heartbeat& heartbeat) override {
    const GuardedMemory::Opened opened(memory_);
    inner_->scan(inputs, state, y, heartbeat);
  }
  std::int64_t add_incoming(const ScanInputs& inputs, const float* h_in, TensorView<float> y,
                            Heartbeat& heartbeat) override {
    const GuardedMemory::Opened opened(memory_);
    return inner_->add_incoming(inputs, h_in, y, heartbeat);
  }
  void join(const float* a, std::int64_t batch, std::int64_t channels, std::int64_t d_state, const ScanSummary& near,
            const ScanSummary& far) const override {
    const GuardedMemory::Opened opened(memory_);
    inner_->join(a, batch, channels, d_state, near, far);
  }
  void convert(const AnyView& from, const MutableAnyView& to) const override {
    const GuardedMemory::Opened opened(memory_);
    inner_->convert(from, to);
  }
  void conv1d(const ConvTask& task) const override {
    const GuardedMemory::Opened opened(memory_);
    inner_->conv1d(task);
  }
  void project(const ProjectTask& task) const override {
    const GuardedMemory::Opened opened(memory_);
    inner_->project(task);
  }
  std::size_t scratch_bytes(std::int64_t d_state) const override { return inner_->scratch_bytes(d_state); }

 private:
  GuardedMemory& memory_;
  std::unique_ptr<SsmKernels> inner_ = make_cpu_ssm_kernels();
};

class GuardedConvolution final : public LongConvolution {
 public:
  GuardedConvolution(std::unique_ptr<LongConvolution> inner, GuardedMemory& memory)
      : inner_(std::move(inner)), memory_(memory) {}

  std::int64_t tokens() const override { return inner_->tokens(); }
  std::int64_t width() const override { return inner_->width(); }
  void run(const RowsConvTask& task) override {
    const GuardedMemory::Opened opened(memory_);
    inner_->run(task);
  }
  void run(const LinesConvTask& task) override {
    const GuardedMemory::Opened opened(memory_);
    inner_->run(task);
  }

 private:
  std::unique_ptr<LongConvolution> inner_;
  GuardedMemory& memory_;
};

class GuardedChela final : public ChelaKernels {
 public:
  explicit GuardedChela(GuardedMemory& memory) : memory_(memory) {}

  MemorySpace& work_memory() const override { return memory_; }
  void convolve(const PlainConvTask& task) const override {
    const GuardedMemory::Opened opened(memory_);
    inner_->convolve(task);
  }
  std::unique_ptr<LongConvolution> plan_convolution(std::int64_t tokens, std::int64_t width,
                                                    std::int64_t channels) const override {
    return std::make_unique<GuardedConvolution>(inner_->plan_convolution(tokens, width, channels), memory_);
  }
  std::size_t convolution_bytes(std::int64_t tokens, std::int64_t width) const override {
    return inner_->convolution_bytes(tokens, width);
  }
  std::int64_t lines_at_once(std::int64_t, std::int64_t) const override { return 3; }
  void transpose(const TransposeTask& task) const override {
    const GuardedMemory::Opened opened(memory_);
    inner_->transpose(task);
  }
  void affine(const float* z, std::int64_t rows, std::span<const float> factor, std::span<const float> offset,
              float* out) const override {
    const GuardedMemory::Opened opened(memory_);
    inner_->affine(z, rows, factor, offset, out);
  }
  void silu(std::span<float> values) const override {
    const GuardedMemory::Opened opened(memory_);
    inner_->silu(values);
  }
  void gate(std::span<float> values, const float* other) const override {
    const GuardedMemory::Opened opened(memory_);
    inner_->gate(values, other);
  }

 private:
  GuardedMemory& memory_;
  std::unique_ptr<ChelaKernels> inner_ = make_cpu_chela_kernels();
};

/// Tensors are guarded; states are the host's.
class GuardedLinear final : public ForwardingLinear {
 public:
  GuardedLinear(const LinearKernels& inner, GuardedMemory& memory) : ForwardingLinear(inner), memory_(memory) {}

  void advance(const LinearTask& task, const LinearParams& params, LinearState& state,
               Heartbeat& heartbeat) const override {
    const GuardedMemory::Opened opened(memory_);
    inner_.advance(task, params, state, heartbeat);
  }

 private:
  GuardedMemory& memory_;
};

}  // namespace ringscan::test
