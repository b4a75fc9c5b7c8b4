// The CUDA backend: blocks in device memory, each task to the Hopper kernels where they can take it, else to the
// portable ones. Functions return when their work is through, and move the heartbeat on meanwhile.

#include <algorithm>
#include <string>

#include "core/error.hpp"
#include "kernels/cuda/attend.hpp"
#include "kernels/cuda/check.hpp"
#include "kernels/cuda/device_memory.hpp"
#include "kernels/cuda/linear_backend.hpp"
#include "kernels/cuda/portable_attend.hpp"
#include "kernels/cuda/tensor_map.hpp"
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

DevicePartial partial_of(const LseBlock& block) {
  // The launches write what the block owns; only finish() and join() see it as const, and they read.
  const auto floats = [](const Buffer& buffer) { return const_cast<float*>(buffer.as<float>()); };
  return {block.shape, floats(block.out), floats(block.max), floats(block.sum)};
}

DevicePartial partial_of(const StickBlock& block) {
  const auto floats = [](const Buffer& buffer) { return const_cast<float*>(buffer.as<float>()); };
  return {block.shape, floats(block.out), floats(block.log2_stick), nullptr};
}

std::size_t rows_of(const PartialShape& shape) {
  return static_cast<std::size_t>(shape.batch * shape.slots * shape.rows);
}

std::size_t out_bytes(const PartialShape& shape) {
  return rows_of(shape) * static_cast<std::size_t>(shape.v_dim) * sizeof(float);
}

std::size_t row_bytes(const PartialShape& shape) {
  return rows_of(shape) * sizeof(float);
}

/// Tiles of the grid over the task's runs that hold a visible pair.
std::int64_t visible_tiles(const AttendTask& task, std::int64_t query_tile, std::int64_t key_tile) {
  std::int64_t tiles = 0;
  for (std::int64_t begin = task.query_run.begin; begin < task.query_run.end; begin += query_tile) {
    const std::int64_t end = std::min(task.query_run.end, begin + query_tile);
    const std::int64_t first =
        std::max(task.key_run.begin, begin - std::min(task.band.max_delta, begin - task.key_run.begin));
    const std::int64_t last = std::min(task.key_run.end, end - std::max(task.band.min_delta, end - task.key_run.end));
    if (first >= last) continue;
    tiles += ceil_div(last - task.key_run.begin, key_tile) - (first - task.key_run.begin) / key_tile;
  }
  return tiles;
}

class CudaKernels final : public Kernels {
 public:
  explicit CudaKernels(int device)
      : is_hopper_(compute_capability_major(device) == 9),
        memory_(stream_),
        linear_(make_linear_kernels(stream_, memory_)) {
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
  std::int64_t piece_keys() const override { return std::int64_t{1} << 40; }

  void make(LseBlock& block, const PartialShape& shape, MemoryLedger*) const override {
    block.shape = shape;
    block.out = Buffer(out_bytes(shape), nullptr, memory_);
    block.max = Buffer(row_bytes(shape), nullptr, memory_);
    block.sum = Buffer(row_bytes(shape), nullptr, memory_);
    if (rows_of(shape) > 0) portable::reset_softmax(partial_of(block), stream_.get());
  }
  void make(StickBlock& block, const PartialShape& shape, MemoryLedger*) const override {
    block.shape = shape;
    block.out = Buffer(out_bytes(shape), nullptr, memory_);
    block.log2_stick = Buffer(row_bytes(shape), nullptr, memory_);
    block.done = Buffer(sizeof(std::uint32_t), nullptr, memory_);  // open rows; before any key not 0
    check(cudaMemsetAsync(block.done.data(), 0xff, block.done.size_bytes(), stream_.get()));
    if (rows_of(shape) > 0) portable::reset_stick_breaking(partial_of(block), stream_.get());
  }
  void make(TopkBlock& block, const PartialShape& shape, MemoryLedger*) const override {
    block.shape = shape;
    block.rows = Buffer(portable::search_rows_bytes(shape), nullptr, memory_);
    block.bins = Buffer(portable::search_bins_bytes(shape), nullptr, memory_);
    block.open = Buffer(sizeof(std::uint32_t), nullptr, memory_);
  }
  std::size_t block_bytes(const Mechanism& mechanism, const PartialShape& shape) const override {
    const std::size_t lse = out_bytes(shape) + 2 * row_bytes(shape);
    const auto* sparse = std::get_if<SparseParams>(&mechanism);
    if (sparse == nullptr || sparse->select == SparseSelect::kWindow) return lse + sizeof(std::uint32_t);
    return lse + portable::search_rows_bytes(shape) + portable::search_bins_bytes(shape) + sizeof(std::uint32_t);
  }
  std::size_t scratch_bytes(std::int64_t, std::int64_t, std::int64_t) const override { return std::size_t{1} << 20; }

  AttendStats attend(const AttendTask& task, const SoftmaxParams& params, LseBlock& block,
                     Heartbeat& heartbeat) override {
    return attend_dense(task, params, block, heartbeat, takes_hopper(task));
  }
  AttendStats attend(const AttendTask& task, const CogParams& params, LseBlock& block, Heartbeat& heartbeat) override {
    return attend_dense(task, params, block, heartbeat, takes_hopper(task));
  }
  AttendStats attend(const AttendTask& task, const TopkBlock& chosen, LseBlock& block, Heartbeat& heartbeat) override {
    if (is_empty(task)) return {};
    portable::attend(launch_of(task, partial_of(block)), search_of(chosen), stream_.get());
    return stats_of(task, portable::kQueryTile, portable::kKeyTile, false, heartbeat);
  }
  AttendStats attend(const AttendTask& task, const StickBreakingParams& params, StickBlock& block,
                     Heartbeat& heartbeat) override;

  void start_search(const AttendTask& sample, std::span<const std::int64_t> keys_kept, TopkBlock& block) override {
    block.first_query = sample.query_run.begin;
    if (rows_of(block.shape) == 0) return;
    const Buffer kept = on_device(keys_kept);
    portable::start_search(sample, kept.as<std::int64_t>(), search_of(block), stream_.get());
    stream_.wait();
  }
  void count(const AttendTask& task, TopkBlock& block, Heartbeat& heartbeat) override {
    if (is_empty(task)) return;
    portable::count(task, search_of(block), stream_.get());
    stream_.wait(heartbeat);
  }
  void count_and_add(const AttendTask& task, TopkBlock& block, LseBlock& all, Heartbeat& heartbeat) override {
    if (is_empty(task)) return;
    portable::count_and_add(task, search_of(block), partial_of(all), stream_.get());
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

  bool all_done(const StickBlock& block) const override { return open_rows(block) == 0; }

  void join(LseBlock& near, const LseBlock& far) const override {
    if (rows_of(near.shape) > 0) portable::join_softmax(partial_of(near), partial_of(far), stream_.get());
  }
  void join(StickBlock& near, const StickBlock& far) const override {
    if (rows_of(near.shape) == 0) return;
    // A stick that was used up in either part is used up.
    const std::uint32_t open = std::min(open_rows(near), open_rows(far));
    portable::join_stick_breaking(partial_of(near), partial_of(far), stream_.get());
    memory_.copy_in(near.done.data(), &open, sizeof open);
  }

  void finish(const FinishTask& task, const SoftmaxParams&, const LseBlock& block) const override {
    finish_lse(task, block);
  }
  void finish(const FinishTask& task, const CogParams&, const LseBlock& block) const override {
    finish_lse(task, block);
  }
  void finish(const FinishTask& task, const StickBreakingParams& params, const StickBlock& block) const override {
    if (rows_of(block.shape) > 0) portable::finish_stick_breaking(task, params, partial_of(block), stream_.get());
    stream_.wait();
  }

  const LinearKernels& linear() const override { return *linear_; }

 private:
  static bool is_empty(const AttendTask& task) {
    return task.query_run.empty() || task.key_run.empty() || task.slots.empty() || task.q.shape[0] == 0;
  }

  /// What the kernels of attend.hpp ask for.
  bool takes_hopper(const AttendTask& task) const {
    const std::int64_t head_dim = task.q.shape[3];
    return is_hopper_ && head_dim % 8 == 0 && head_dim <= 256 && task.v.shape[3] == head_dim &&
           task.q.type == task.k.type && task.q.type == task.v.type && tma_readable(task.q) && tma_readable(task.k) &&
           tma_readable(task.v) && task.scale > 0.0f;
  }

  template <typename T>
  Buffer on_device(std::span<const T> list) const {
    Buffer buffer(list.size_bytes(), nullptr, memory_);
    if (!list.empty()) memory_.copy_in(buffer.data(), list.data(), list.size_bytes());
    return buffer;
  }

  DeviceAttend launch_of(const AttendTask& task, const DevicePartial& partial) const {
    DeviceAttend launch;
    launch.task = task;
    launch.partial = partial;
    launch.starts = false;  // make() has set the identity
    launch.workspace = const_cast<std::uint32_t*>(workspace_.as<std::uint32_t>());
    return launch;
  }

  portable::DeviceSearch search_of(const TopkBlock& block) const {
    const auto words = [](const Buffer& buffer) { return const_cast<std::uint32_t*>(buffer.as<std::uint32_t>()); };
    portable::DeviceSearch search;
    search.shape = block.shape;
    search.first_query = block.first_query;
    search.rows = const_cast<portable::SearchRow*>(block.rows.as<portable::SearchRow>());
    search.bins = words(block.bins);
    search.open = words(block.open);
    return search;
  }

  template <typename Params>
  AttendStats attend_dense(const AttendTask& task, const Params& params, LseBlock& block, Heartbeat& heartbeat,
                           bool by_hopper) {
    if (is_empty(task)) return {};
    DeviceAttend launch = launch_of(task, partial_of(block));
    const Buffer deltas = on_device(task.max_deltas);
    launch.task.max_deltas = {deltas.as<std::int64_t>(), task.max_deltas.size()};
    if (by_hopper) {
      cuda::attend(launch, params, stream_.get());
      return stats_of(task, query_tile(task.q.shape[3]), key_tile(task.q.shape[3]), false, heartbeat);
    }
    portable::attend(launch, params, stream_.get());
    return stats_of(task, portable::kQueryTile, portable::kKeyTile, false, heartbeat);
  }

  void finish_lse(const FinishTask& task, const LseBlock& block) const {
    if (rows_of(block.shape) > 0) {
      const bool wants_mass = task.kept_mass.data != nullptr;
      const DevicePartial all = wants_mass ? partial_of(*task.all) : DevicePartial{};
      portable::finish_softmax(task, partial_of(block), wants_mass ? &all : nullptr, stream_.get());
    }
    stream_.wait();
  }

  std::uint32_t open_rows(const StickBlock& block) const {
    std::uint32_t open = 0;
    if (rows_of(block.shape) > 0) memory_.copy_out(&open, block.done.data(), sizeof open);
    return open;
  }

  /// Waits. Pairs are those visible, or with `exits_early` at most those of the tiles computed.
  AttendStats stats_of(const AttendTask& task, std::int64_t rows_a_tile, std::int64_t keys_a_tile, bool exits_early,
                       Heartbeat& heartbeat) const {
    stream_.wait(heartbeat);
    std::uint32_t words[2] = {};
    memory_.copy_out(words, workspace_.data(), sizeof words);
    const std::int64_t streams = task.q.shape[0] * static_cast<std::int64_t>(task.slots.size());
    AttendStats stats;
    stats.pairs = visible_pairs(task) * streams;
    stats.tiles_computed = words[1];
    if (exits_early) {
      stats.pairs = std::min(stats.pairs, stats.tiles_computed * rows_a_tile * keys_a_tile);
      stats.tiles_skipped =
          std::max<std::int64_t>(0, visible_tiles(task, rows_a_tile, keys_a_tile) * streams - stats.tiles_computed);
    }
    return stats;
  }

  static std::int64_t visible_pairs(const AttendTask& task) {
    if (task.max_deltas.empty()) return count_pairs(task.band, task.query_run, task.key_run);
    std::int64_t pairs = 0;
    for (std::size_t row = 0; row < task.max_deltas.size(); ++row) {
      const std::int64_t query = task.query_run.begin + static_cast<std::int64_t>(row);
      const Band band{task.band.min_delta, std::min(task.band.max_delta, task.max_deltas[row])};
      pairs += count_pairs(band, {query, query + 1}, task.key_run);
    }
    return pairs;
  }

  bool is_hopper_;
  Stream stream_;
  mutable DeviceMemory memory_;
  std::unique_ptr<LinearKernels> linear_;
  std::string device_;
  Buffer workspace_;
};

AttendStats CudaKernels::attend(const AttendTask& task, const StickBreakingParams& params, StickBlock& block,
                                Heartbeat& heartbeat) {
  if (is_empty(task)) return {};
  const DeviceAttend launch = launch_of(task, partial_of(block));
  const bool by_hopper = takes_hopper(task);
  if (by_hopper) {
    cuda::attend(launch, params, stream_.get());
  } else {
    portable::attend(launch, params, stream_.get());
  }
  if (params.epsilon > 0.0) {
    portable::count_open_rows(partial_of(block), params.epsilon, block.done.as<std::uint32_t>(), stream_.get());
  }
  const std::int64_t rows_a_tile = by_hopper ? query_tile(task.q.shape[3]) : portable::kQueryTile;
  const std::int64_t keys_a_tile = by_hopper ? key_tile(task.q.shape[3]) : portable::kKeyTile;
  return stats_of(task, rows_a_tile, keys_a_tile, params.epsilon > 0.0, heartbeat);
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
