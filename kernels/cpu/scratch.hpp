#pragma once
// The memory that an attend() works in, beside its arguments.

#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/buffer.hpp"
#include "kernels/cpu/tile_ops.hpp"

namespace ringscan::cpu {

/// Carves one buffer into arrays, each on a cache line.
struct Scratch {
  static constexpr std::size_t kSlack = kPanel * kMaxVector;  // packing runs over

  Scratch(std::size_t head_dim, std::size_t v_dim, std::size_t key_block)
      : tiles_in_block((key_block + kKeyTile - 1) / kKeyTile),
        key_tile_floats(round_up(round_up(kKeyTile, kRowStep) * head_dim + kSlack, kMaxVector)),
        value_tile_floats(round_up(v_dim, kRowStep) * kKeyTile),
        buffer(floats(head_dim, v_dim, key_block) * sizeof(float)) {
    float* next = buffer.as<float>();
    const auto take = [&next](std::size_t count) { return std::exchange(next, next + count); };
    rows = take(row_floats(head_dim, v_dim));
    panels = take(panel_floats(head_dim));
    queries = take(kQueryTile * head_dim);
    scores = take(kKeyTile * kLaneGroup);
    out = take(kQueryTile * round_up(v_dim, kRowStep));
    lane_values = take(2 * kQueryTile);
    first_keys = take(kQueryTile);
    keys = take(tiles_in_block * key_tile_floats);
    values = take(tiles_in_block * value_tile_floats);
  }

  static std::size_t bytes(std::size_t head_dim, std::size_t v_dim, std::size_t key_block) {
    return floats(head_dim, v_dim, key_block) * sizeof(float);
  }

  std::size_t tiles_in_block;
  std::size_t key_tile_floats;
  std::size_t value_tile_floats;
  Buffer buffer;
  float* rows;         ///< a tile's rows as float32
  float* panels;       ///< a query tile on its way into lanes
  float* queries;      ///< lane rows
  float* scores;       ///< [kKeyTile][kLaneGroup]
  float* out;          ///< lane rows: what one key block adds
  float* lane_values;  ///< two floats a lane
  float* first_keys;   ///< one a lane
  float* keys;         ///< panels of the block's key tiles
  float* values;

 private:
  static std::size_t row_floats(std::size_t head_dim, std::size_t v_dim) {
    return kQueryTile * round_up(head_dim > v_dim ? head_dim : v_dim, kMaxVector);
  }
  static std::size_t panel_floats(std::size_t head_dim) { return kQueryTile * head_dim + kSlack; }
  static std::size_t floats(std::size_t head_dim, std::size_t v_dim, std::size_t key_block) {
    const std::size_t tiles = (key_block + kKeyTile - 1) / kKeyTile;
    const std::size_t out_floats = kQueryTile * round_up(v_dim, kRowStep);
    const std::size_t key_floats = round_up(round_up(kKeyTile, kRowStep) * head_dim + kSlack, kMaxVector);
    const std::size_t value_floats = round_up(v_dim, kRowStep) * kKeyTile;
    return row_floats(head_dim, v_dim) + panel_floats(head_dim) + kQueryTile * head_dim + kKeyTile * kLaneGroup +
           out_floats + 3 * kQueryTile + tiles * (key_floats + value_floats);
  }
};

}  // namespace ringscan::cpu
