#include "kernels/cpu/attend_walk.hpp"

namespace ringscan::cpu {

std::vector<KvGroup> group_by_kv_head(std::span<const HeadSlot> slots) {
  std::vector<KvGroup> groups;
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    const int kv_head = slots[slot].kv_head;
    auto group =
        std::find_if(groups.begin(), groups.end(), [&](const KvGroup& known) { return known.kv_head == kv_head; });
    if (group == groups.end()) group = groups.insert(groups.end(), KvGroup{kv_head, {}});
    group->slots.push_back(static_cast<std::int64_t>(slot));
  }
  return groups;
}

std::int64_t count_key_tiles(const TokenRun& keys, std::int64_t key_block) {
  if (keys.empty()) return 0;
  constexpr auto kTile = static_cast<std::int64_t>(kKeyTile);
  const auto tile_number = [&](std::int64_t key) {
    return key / key_block * ceil_div(key_block, kTile) + key % key_block / kTile;
  };
  return tile_number(keys.end - 1) - tile_number(keys.begin) + 1;
}

void PackedKeyBlock::start(std::int64_t batch, int kv_head, std::int64_t cell_begin) {
  batch_ = batch;
  kv_head_ = kv_head;
  cell_begin_ = cell_begin;
  keys_ = intersect(TokenRun{cell_begin, cell_begin + task_.key_block}, task_.key_run);
  packed_.assign(packed_.size(), false);
}

void PackedKeyBlock::load(std::int64_t index, TileTask& tile_task) {
  const auto place = static_cast<std::size_t>(index);
  float* keys = scratch_.keys + place * scratch_.key_tile_floats;
  float* values = scratch_.values + place * scratch_.value_tile_floats;
  if (!packed_[place]) {
    const TokenRun run = tile(index);
    const std::int64_t token = run.begin - task_.key_run.begin;
    ops_.pack_keys(rows_of(task_.k, batch_, token, kv_head_, run.size()), scratch_.rows, keys);
    if (task_.v.shape[3] > 0)
      ops_.pack_values(rows_of(task_.v, batch_, token, kv_head_, run.size()), scratch_.rows, values);
    packed_[place] = true;
  }
  tile_task.keys = keys;
  tile_task.values = values;
}

}  // namespace ringscan::cpu
