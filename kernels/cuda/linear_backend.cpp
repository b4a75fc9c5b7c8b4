#include "kernels/cuda/linear_backend.hpp"

#include <algorithm>
#include <span>
#include <vector>

#include "kernels/cuda/linear.hpp"
#include "kernels/cuda/linear_params.hpp"

namespace ringscan::cuda {
namespace {

/// Long enough that a run is cut into as many segments as it ever is.
constexpr std::int64_t kManyTokens = std::int64_t{1} << 40;

DeviceLinearState state_of(const LinearState& state) {
  // Kernels write what a caller owns; join()'s far state and load()'s are only read.
  return {state.shape, const_cast<float*>(state.data.as<float>())};
}

class CudaLinearKernels final : public LinearKernels {
 public:
  CudaLinearKernels(const Stream& stream, DeviceMemory& memory) : stream_(stream), memory_(memory) {}

  MemorySpace& memory() const override { return memory_; }

  void make(LinearState& state, const LinearShape& shape, MemoryLedger*) const override {
    state.shape = shape;
    state.data = Buffer(linear_state_bytes(shape), nullptr, memory_);
    if (state.data.size_bytes() > 0) linear_reset(state_of(state), stream_.get());
  }
  std::size_t state_bytes(const LinearShape& shape) const override { return linear_state_bytes(shape); }
  std::size_t linear_scratch_bytes(const LinearShape& shape) const override {
    // Segments are as many as a device has blocks, or one a head where heads are more; the last state may have few
    // heads.
    return linear_workspace_bytes({1, 1, shape.head_dim, shape.v_dim, true}, kManyTokens) +
           linear_workspace_bytes(shape, 1);
  }
  std::size_t slots_a_state() const override { return kMaxSlots; }
  bool keeps_summaries() const override { return true; }

  void advance(const LinearTask& task, const LinearParams& params, LinearState& state, Heartbeat&) const override {
    const std::int64_t tokens = task.k.shape[1];
    const LinearShape& shape = state.shape;
    if (tokens == 0 || shape.batch * shape.slots == 0) return;
    Buffer own;
    Buffer& workspace = task.summary != nullptr ? *task.summary : own;
    const bool is_summed_up = workspace.size_bytes() > 0;
    if (!is_summed_up) workspace = Buffer(linear_workspace_bytes(shape, tokens), nullptr, memory_);
    void* const scratch = workspace.data();
    if (!is_summed_up) linear_summarize(task, params, shape, scratch, stream_.get());
    linear_carry(shape, tokens, scratch, state_of(state), state_of(state), stream_.get());
    if (task.o.data != nullptr) linear_output(task, params, shape, scratch, stream_.get());
  }
  void settle(Heartbeat& heartbeat) const override { stream_.wait(heartbeat); }

  void join(LinearState& near, const LinearState& far) const override {
    linear_join(state_of(near), state_of(far), stream_.get());
  }

  void fold(LinearState& to, std::span<const LinearState> runs) const override {
    if (runs.empty()) return;
    std::vector<DeviceLinearState> states;
    for (const LinearState& run : runs) states.push_back(state_of(run));
    linear_fold(state_of(to), states, stream_.get());
  }

  void load(const LinearState& state, std::int64_t batch, std::int64_t slot, std::span<double> s,
            std::span<double> n) const override {
    const DeviceLinearState device = state_of(state);
    const std::size_t index = place(state.shape, batch, slot);
    const auto read = [&](const float* from, std::span<double> to) {
      std::vector<float> values(to.size());
      memory_.copy_out(values.data(), from + index * to.size(), to.size() * sizeof(float));
      std::copy(values.begin(), values.end(), to.begin());
    };
    read(device.s(), s);
    if (state.shape.has_normalizer) read(device.n(), n);
  }
  void store(LinearState& state, std::int64_t batch, std::int64_t slot, std::span<const double> s,
             std::span<const double> n) const override {
    const DeviceLinearState device = state_of(state);
    const std::size_t index = place(state.shape, batch, slot);
    const auto write = [&](float* to, std::span<const double> from) {
      std::vector<float> values(from.size());
      std::transform(from.begin(), from.end(), values.begin(), [](double x) { return static_cast<float>(x); });
      memory_.copy_in(to + index * from.size(), values.data(), from.size() * sizeof(float));
    };
    write(device.s(), s);
    if (state.shape.has_normalizer) write(device.n(), n);
  }

 private:
  static std::size_t place(const LinearShape& shape, std::int64_t batch, std::int64_t slot) {
    return static_cast<std::size_t>(batch * shape.slots + slot);
  }

  const Stream& stream_;
  DeviceMemory& memory_;
};

}  // namespace

std::unique_ptr<LinearKernels> make_linear_kernels(const Stream& stream, DeviceMemory& memory) {
  return std::make_unique<CudaLinearKernels>(stream, memory);
}

}  // namespace ringscan::cuda
