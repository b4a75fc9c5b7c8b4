// The CUDA backend: blocks in device memory, each task to the Hopper kernels where they can take it, else to the
// portable ones. attend(), join() and finish() return once their work is on the stream; what an attend() did is counted
// on the device and read at settle(). The search waits.

#include <algorithm>
#include <numbers>
#include <string>
#include <utility>

#include "core/error.hpp"
#include "kernels/cuda/attend.hpp"
#include "kernels/cuda/attend_counters.hpp"
#include "kernels/cuda/block_backend.hpp"
#include "kernels/cuda/block_partial.hpp"
#include "kernels/cuda/check.hpp"
#include "kernels/cuda/device_memory.hpp"
#include "kernels/cuda/linear_backend.hpp"
#include "kernels/cuda/portable_attend.hpp"
#include "kernels/cuda/split_tail.hpp"
#include "kernels/cuda/tensor_map.hpp"
#include "kernels/cuda/topk.hpp"
#include "kernels/kernels.hpp"

namespace ringscan {
namespace {

using namespace cuda;

constexpr int kLeastMajor = 8;

int compute_capability_major(int device) {
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major;
}

class CudaKernels final : public Kernels {
 public:
  explicit CudaKernels(int device)
      : is_hopper_(compute_capability_major(device) == 9),
        memory_(stream_, usage_, false),
        staging_(staging_stream_, usage_, true),
        linear_(make_linear_kernels(stream_, memory_)),
        counters_(memory_) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, device));
    device_ =
        std::string(properties.name) + ", sm_" + std::to_string(properties.major) + std::to_string(properties.minor);
    workspace_ = Buffer(static_cast<std::size_t>(kWorkspaceBytes), nullptr, memory_);
    workspace_.fill_zero();
  }
  ~CudaKernels() override { cudaStreamSynchronize(stream_.get()); }

  std::string_view name() const override { return "cuda"; }
  std::string device() const override { return device_; }
  MemorySpace& memory() const override { return memory_; }
  MemorySpace& staging() const override { return staging_; }
  std::int64_t piece_keys() const override { return std::int64_t{1} << 40; }
  bool takes_gaps() const override { return true; }

  void make(LseBlock& block, const PartialShape& shape, MemoryLedger*) const override {
    block.shape = shape;
    block.out = Buffer(out_bytes(shape), nullptr, memory_);
    block.max = Buffer(row_bytes(shape), nullptr, memory_);
    block.sum = Buffer(row_bytes(shape), nullptr, memory_);
    block.is_identity = true;
  }
  void make(StickBlock& block, const PartialShape& shape, MemoryLedger*) const override {
    block.shape = shape;
    block.out = Buffer(out_bytes(shape), nullptr, memory_);
    block.log2_stick = Buffer(row_bytes(shape), nullptr, memory_);
    block.done = Buffer(sizeof(std::uint32_t), nullptr, memory_);  // open rows; before any key not 0
    check(cudaMemsetAsync(block.done.data(), 0xff, block.done.size_bytes(), stream_.get()));
    block.is_identity = true;
  }
  void make(TopkBlock& block, const PartialShape& shape, MemoryLedger*) const override {
    block.shape = shape;
    block.rows = Buffer(search_rows_bytes(shape), nullptr, memory_);
    block.bins = Buffer(search_bins_bytes(shape, is_hopper_), nullptr, memory_);
    block.open = Buffer(search_open_bytes(shape, is_hopper_) + sizeof(float), nullptr, memory_);
    set_scale(block, 0.0f);
  }
  std::size_t block_bytes(const Mechanism& mechanism, const PartialShape& shape) const override {
    const std::size_t lse = out_bytes(shape) + 2 * row_bytes(shape);
    const auto* sparse = std::get_if<SparseParams>(&mechanism);
    if (sparse == nullptr || sparse->select == SparseSelect::kWindow) return lse + sizeof(std::uint32_t);
    return lse + search_rows_bytes(shape) + search_bins_bytes(shape, is_hopper_) +
           search_open_bytes(shape, is_hopper_) + sizeof(float);
  }
  std::size_t scratch_bytes(std::int64_t, std::int64_t, std::int64_t) const override {
    return (std::size_t{1} << 20) + static_cast<std::size_t>(kMostPartBytes);
  }

  AttendStats attend(const AttendTask& task, const SoftmaxParams& params, LseBlock& block, Heartbeat&) override {
    return attend_dense(task, params, block, nullptr);
  }
  AttendStats attend(const AttendTask& task, const CogParams& params, LseBlock& block, Heartbeat&) override {
    return attend_dense(task, params, block, nullptr);
  }
  AttendStats attend(const AttendTask& task, const TopkBlock& chosen, LseBlock& block, Heartbeat&) override {
    return attend_chosen(task, chosen, block, nullptr);
  }
  AttendStats attend(const AttendTask& task, const StickBreakingParams& params, StickBlock& block,
                     Heartbeat&) override {
    return attend_stick(task, params, block, nullptr);
  }
  AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const SoftmaxParams& params, LseBlock& block,
                          Heartbeat&) override {
    return attend_dense(task, params, block, &rows);
  }
  AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const CogParams& params, LseBlock& block,
                          Heartbeat&) override {
    return attend_dense(task, params, block, &rows);
  }
  AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const TopkBlock& chosen, LseBlock& block,
                          Heartbeat&) override {
    return attend_chosen(task, chosen, block, &rows);
  }
  AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const StickBreakingParams& params,
                          StickBlock& block, Heartbeat&) override {
    return attend_stick(task, params, block, &rows);
  }
  bool gains_by_attend_last() const override { return is_hopper_; }

  void start_search(const AttendTask& sample, std::span<const std::int64_t> keys_kept, TopkBlock& block) override {
    block.first_query = sample.query_run.begin;
    if (rows_of(block.shape) == 0) return;
    const Buffer kept = on_device(keys_kept);
    if (searches_hopper(sample, block)) {
      set_scale(block, sample.scale * std::numbers::log2e_v<float>);
      cuda::start_search(sample, kept.as<std::int64_t>(), *std::max_element(keys_kept.begin(), keys_kept.end()),
                         search_of(block), words_of(workspace_), stream_.get());
    } else {
      portable::start_search(sample, kept.as<std::int64_t>(), search_of(block), stream_.get());
    }
    stream_.wait();
  }
  void count(const AttendTask& task, TopkBlock& block, Heartbeat& heartbeat) override {
    if (is_empty(task)) return;
    if (searches_hopper(task, block)) {
      cuda::count(task, search_of(block), nullptr, words_of(workspace_), stream_.get());
    } else {
      portable::count(task, search_of(block), stream_.get());
    }
    stream_.wait(heartbeat);
  }
  void count_and_add(const AttendTask& task, TopkBlock& block, LseBlock& all, Heartbeat& heartbeat) override {
    if (is_empty(task)) return;
    if (searches_hopper(task, block)) {
      const DevicePartial weights = partial_of(all);
      cuda::count(task, search_of(block), &weights, words_of(workspace_), stream_.get());
    } else {
      portable::count_and_add(task, search_of(block), partial_of(all), stream_.get());
    }
    stream_.wait(heartbeat);
  }
  bool narrow(TopkBlock& block) const override {
    std::uint32_t open = 0;
    if (rows_of(block.shape) > 0) {
      portable::narrow(search_of(block), stream_.get());
      memory_.copy_out(&open, block.open.data(), sizeof open);
    }
    if (open == 0) block.bins = Buffer();
    return open == 0;
  }

  bool all_done(const StickBlock& block) const override {
    std::uint32_t open = 0;
    if (rows_of(block.shape) > 0) memory_.copy_out(&open, block.done.data(), sizeof open);
    return open == 0;
  }

  void join(LseBlock& near, const LseBlock& far) const override {
    if (rows_of(near.shape) > 0) portable::join_softmax(partial_of(near), partial_of(far), stream_.get());
  }
  void join(StickBlock& near, const StickBlock& far) const override {
    if (rows_of(near.shape) == 0) return;
    portable::join_stick_breaking(partial_of(near), partial_of(far), stream_.get());
    // A stick that was used up in either part is used up.
    portable::keep_fewer(near.done.as<std::uint32_t>(), far.done.as<std::uint32_t>(), stream_.get());
  }

  void finish(const FinishTask& task, const SoftmaxParams&, const LseBlock& block) const override {
    finish_lse(task, block);
  }
  void finish(const FinishTask& task, const CogParams&, const LseBlock& block) const override {
    finish_lse(task, block);
  }
  void finish(const FinishTask& task, const StickBreakingParams& params, const StickBlock& block) const override {
    if (rows_of(block.shape) > 0) portable::finish_stick_breaking(task, params, partial_of(block), stream_.get());
  }

  AttendStats settle(Heartbeat& heartbeat) override {
    stream_.wait(heartbeat);
    return counters_.take();
  }

  const LinearKernels& linear() const override { return *linear_; }
  std::unique_ptr<SsmKernels> make_ssm() const override { return make_ssm_kernels(stream_, memory_); }
  std::unique_ptr<ChelaKernels> make_chela() const override { return make_chela_kernels(stream_, memory_); }

 private:
  static bool is_empty(const AttendTask& task) {
    return task.query_run.empty() || task.key_run.empty() || task.slots.empty() || task.q.shape[0] == 0;
  }

  /// Written: the identity where no key has come yet.
  DevicePartial partial_of(const LseBlock& block) const {
    const DevicePartial partial = unwritten_partial_of(block);
    if (take_identity(block) && rows_of(block.shape) > 0) portable::reset_softmax(partial, stream_.get());
    return partial;
  }
  DevicePartial partial_of(const StickBlock& block) const {
    const DevicePartial partial = unwritten_partial_of(block);
    if (take_identity(block) && rows_of(block.shape) > 0) portable::reset_stick_breaking(partial, stream_.get());
    return partial;
  }
  /// True the first time: then the buffers are to be written.
  template <typename Block>
  static bool take_identity(const Block& block) {
    return std::exchange(const_cast<Block&>(block).is_identity, false);
  }

  /// What the kernels of attend.hpp ask for.
  bool takes_hopper(const AttendTask& task) const {
    const std::int64_t head_dim = task.q.shape[3];
    return is_hopper_ && head_dim % 8 == 0 && head_dim <= 256 && task.v.shape[3] == head_dim &&
           task.q.type == task.k.type && task.q.type == task.v.type && tma_readable(task.q) && tma_readable(task.k) &&
           tma_readable(task.v) && task.scale > 0.0f;
  }

  /// The same for a round of counting and for the attend() that follows it, so that both see the same scores: whatever
  /// is asked of v is asked of the block, since v does not travel in a round.
  bool searches_hopper(const AttendTask& task, const TopkBlock& block) const {
    const std::int64_t head_dim = task.q.shape[3];
    return is_hopper_ && head_dim % 8 == 0 && head_dim <= 256 && block.shape.v_dim == head_dim &&
           task.q.type == task.k.type && tma_readable(task.q) && tma_readable(task.k) && task.scale > 0.0f;
  }

  template <typename T>
  Buffer on_device(std::span<const T> list) const {
    Buffer buffer(list.size_bytes(), nullptr, memory_);
    if (!list.empty()) memory_.copy_in(buffer.data(), list.data(), list.size_bytes());
    return buffer;
  }

  /// A launch with counters of its own, which counted() is to be called for.
  template <typename Block>
  DeviceAttend launch_of(const AttendTask& task, Block& block) {
    DeviceAttend launch;
    launch.task = task;
    launch.partial = unwritten_partial_of(block);
    launch.starts = take_identity(block);
    launch.workspace = counters_.next_workspace();
    return launch;
  }
  /// Nothing yet: settle() tells.
  AttendStats counted(const AttendTask& task, bool by_hopper, bool exits_early) {
    const std::int64_t rows_a_tile = by_hopper ? query_tile(task.q.shape[3]) : portable::kQueryTile;
    const std::int64_t keys_a_tile = by_hopper ? key_tile(task.q.shape[3]) : portable::kKeyTile;
    counters_.add(task, rows_a_tile, keys_a_tile, exits_early);
    return {};
  }

  static std::uint32_t* words_of(const Buffer& buffer) {
    return const_cast<std::uint32_t*>(buffer.as<std::uint32_t>());
  }
  /// The last word behind the flags: scale log2(e) of a search that has lists, 0 of any other.
  void set_scale(TopkBlock& block, float scale_log2) const {
    memory_.copy_in(block.open.as<std::byte>() + block.open.size_bytes() - sizeof(float), &scale_log2, sizeof(float));
  }
  float scale_of(const TopkBlock& block) const {
    float scale_log2 = 0.0f;
    memory_.copy_out(&scale_log2, block.open.as<std::byte>() + block.open.size_bytes() - sizeof(float), sizeof(float));
    return scale_log2;
  }
  DeviceSearch search_of(const TopkBlock& block) const {
    DeviceSearch search;
    search.shape = block.shape;
    search.first_query = block.first_query;
    search.rows = const_cast<SearchRow*>(block.rows.as<SearchRow>());
    search.bins = words_of(block.bins);
    search.open = words_of(block.open);
    search.has_lists = is_hopper_;
    search.scale_log2 = scale_of(block);
    return search;
  }

  /// True where the kernels of attend.hpp write finished rows themselves, which `launch` then asks for.
  static bool finishes(const AttendTask& task, const FinishTask* rows, DeviceAttend& launch) {
    launch.finishes = rows != nullptr && rows->o.type == task.q.type && rows->o.shape[3] == task.q.shape[3] &&
                      tma_readable(rows->o) && rows->kept_mass.data == nullptr;
    if (launch.finishes) launch.finish = {rows->o, rows->statistic};
    return launch.finishes;
  }

  template <typename Rule>
  void queue(const DeviceAttend& launch, const Rule& rule, bool by_hopper) {
    if (by_hopper) {
      cuda::attend(launch, rule, stream_.get());
    } else {
      portable::attend(launch, rule, stream_.get());
    }
  }

  template <typename Params, typename Block>
  AttendStats only_finish(const FinishTask* rows, const Params& params, const Block& block) const {
    if (rows != nullptr) finish(*rows, params, block);
    return {};
  }

  /// `rows`: null, or the keys are the last and the block's rows go there.
  template <typename Params>
  AttendStats attend_dense(const AttendTask& task, const Params& params, LseBlock& block, const FinishTask* rows) {
    if (is_empty(task)) return only_finish(rows, params, block);
    DeviceAttend launch = launch_of(task, block);
    const Buffer deltas = on_device(task.max_deltas);
    launch.task.max_deltas = {deltas.as<std::int64_t>(), task.max_deltas.size()};
    const bool by_hopper = takes_hopper(task);
    const bool finished = by_hopper && finishes(task, rows, launch);
    queue(launch, params, by_hopper);
    if (rows != nullptr && !finished) finish_lse(*rows, block);
    return counted(task, by_hopper, false);
  }
  AttendStats attend_chosen(const AttendTask& task, const TopkBlock& chosen, LseBlock& block, const FinishTask* rows);
  AttendStats attend_stick(const AttendTask& task, const StickBreakingParams& params, StickBlock& block,
                           const FinishTask* rows);

  void finish_lse(const FinishTask& task, const LseBlock& block) const {
    if (rows_of(block.shape) == 0) return;
    const bool wants_mass = task.kept_mass.data != nullptr;
    const DevicePartial all = wants_mass ? partial_of(*task.all) : DevicePartial{};
    portable::finish_softmax(task, partial_of(block), wants_mass ? &all : nullptr, stream_.get());
  }

  bool is_hopper_;
  Stream stream_, staging_stream_;
  DeviceUsage usage_;
  mutable DeviceMemory memory_, staging_;
  std::unique_ptr<LinearKernels> linear_;
  std::string device_;
  Buffer workspace_;
  AttendCounters counters_;
};

AttendStats CudaKernels::attend_chosen(const AttendTask& task, const TopkBlock& chosen, LseBlock& block,
                                       const FinishTask* rows) {
  if (is_empty(task)) return only_finish(rows, SoftmaxParams{}, block);
  DeviceAttend launch = launch_of(task, block);
  const bool by_hopper = searches_hopper(task, chosen);
  const bool finished = by_hopper && finishes(task, rows, launch);
  queue(launch, search_of(chosen), by_hopper);
  if (rows != nullptr && !finished) finish_lse(*rows, block);
  return counted(task, by_hopper, false);
}

AttendStats CudaKernels::attend_stick(const AttendTask& task, const StickBreakingParams& params, StickBlock& block,
                                      const FinishTask* rows) {
  if (is_empty(task)) return only_finish(rows, params, block);
  DeviceAttend launch = launch_of(task, block);
  const bool counts_open = params.epsilon > 0.0 && rows == nullptr;
  const bool by_hopper = takes_hopper(task);
  const bool finished = by_hopper && params.remainder == RemainderPolicy::kDrop && finishes(task, rows, launch);
  queue(launch, params, by_hopper);
  if (rows != nullptr && !finished) finish(*rows, params, block);
  if (counts_open) {
    portable::count_open_rows(launch.partial, params.epsilon, block.done.as<std::uint32_t>(), stream_.get());
  }
  return counted(task, by_hopper, params.epsilon > 0.0);
}

}  // namespace

bool has_cuda_backend() {
  return true;
}

int count_cuda_devices() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess) {
    cudaGetLastError();  // no driver, no device: none to use
    return 0;
  }
  int usable = 0;
  while (usable < devices && compute_capability_major(usable) >= kLeastMajor) ++usable;
  return usable;
}

std::unique_ptr<Kernels> make_cuda_kernels(int device) {
  if (device >= count_cuda_devices()) {
    throw bad_input("backend = cuda: found no GPU " + std::to_string(device) + " here; use backend = cpu");
  }
  check(cudaSetDevice(device));
  return std::make_unique<CudaKernels>(device);
}

}  // namespace ringscan
