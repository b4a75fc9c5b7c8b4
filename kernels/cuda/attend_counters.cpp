#include "kernels/cuda/attend_counters.hpp"

#include <algorithm>
#include <utility>

namespace ringscan::cuda {
namespace {

constexpr int kMostUntold = 256;

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

std::int64_t visible_pairs(const AttendTask& task) {
  if (task.max_deltas.empty()) return count_pairs(task.band, task.query_run, task.key_run);
  // Beside the launch that it counts; a row takes a few instructions.
  std::int64_t pairs = 0;
  for (std::size_t row = 0; row < task.max_deltas.size(); ++row) {
    const std::int64_t query = task.query_run.begin + static_cast<std::int64_t>(row);
    const std::int64_t max_delta = std::min(task.band.max_delta, task.max_deltas[row]);
    const std::int64_t first = std::max(task.key_run.begin, query - max_delta);
    const std::int64_t last = std::min(task.key_run.end - 1, query - task.band.min_delta);
    pairs += std::max<std::int64_t>(0, last - first + 1);
  }
  return pairs;
}

}  // namespace

AttendCounters::AttendCounters(DeviceMemory& memory)
    : memory_(memory), workspaces_(static_cast<std::size_t>(kWorkspaceBytes) * kMostUntold, nullptr, memory) {}

std::uint32_t* AttendCounters::next_workspace() {
  if (std::ssize(untold_) == kMostUntold) read();
  return workspaces_.as<std::uint32_t>() + 2 * untold_.size();
}

void AttendCounters::add(const AttendTask& task, std::int64_t rows_a_tile, std::int64_t keys_a_tile, bool exits_early) {
  const std::int64_t streams = task.q.shape[0] * static_cast<std::int64_t>(task.slots.size());
  Untold untold{visible_pairs(task) * streams, 0, rows_a_tile * keys_a_tile, exits_early};
  if (exits_early) untold.visible_tiles = visible_tiles(task, rows_a_tile, keys_a_tile) * streams;
  untold_.push_back(untold);
}

AttendStats AttendCounters::take() {
  read();
  return std::exchange(told_, {});
}

void AttendCounters::read() {
  std::vector<std::uint32_t> words(2 * untold_.size());
  if (!words.empty()) memory_.copy_out(words.data(), workspaces_.data(), words.size() * sizeof(std::uint32_t));
  for (std::size_t i = 0; i < untold_.size(); ++i) {
    const Untold& untold = untold_[i];
    AttendStats stats{untold.visible_pairs, words[2 * i + 1], 0};
    if (untold.exits_early) {
      stats.pairs = std::min(stats.pairs, stats.tiles_computed * untold.tile_pairs);
      stats.tiles_skipped = std::max<std::int64_t>(0, untold.visible_tiles - stats.tiles_computed);
    }
    told_ += stats;
  }
  untold_.clear();
}

}  // namespace ringscan::cuda
