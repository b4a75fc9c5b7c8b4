#pragma once
// Internal to src/io: a slab of a dataset and the pieces it is transferred in.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "io/activation_file.hpp"
#include "io/hdf5_handles.hpp"

namespace ringscan {

/// The most bytes one transfer carries (1 GiB; some MPI-IO layers fail from 2 GiB on). A test makes it small.
std::size_t piece_limit_bytes();
void set_piece_limit_bytes(std::size_t bytes);

/// A part of a slab that is contiguous in the rank's dense memory [batch, selected token, selected head, dim].
struct SlabPiece {
  std::int64_t batch_begin = 0;
  std::int64_t batch_count = 0;
  std::int64_t token_begin_local = 0;  ///< index among the selected tokens
  std::int64_t token_count = 0;
  std::int64_t first_element = 0;
  std::int64_t element_count = 0;
};

/// A selection checked against a dataset [batch, seq, head, dim] or [batch, seq, head].
class Slab {
 public:
  /// @throws Error: a dataset of another rank (kBadInput); a selection out of bounds or out of order (kFailure).
  Slab(const std::string& file, const DatasetInfo& dataset, const SlabSelection& selection);

  std::int64_t element_count() const { return extent_[0] * tokens_ * row_elements(); }
  /// Whole batch items where they fit under `limit_bytes`, else runs of tokens of one item; at least a token each.
  std::vector<SlabPiece> pieces(std::size_t element_bytes, std::size_t limit_bytes) const;
  /// Selects the piece in a dataspace of the dataset. File order is memory order: both ascend row-major.
  void select(hid_t space, const SlabPiece& piece) const;
  /// Index in the whole dataset, row-major, of an element of the slab.
  std::int64_t to_global(std::int64_t element_local) const;

 private:
  std::int64_t row_elements() const { return static_cast<std::int64_t>(selection_.heads.size()) * extent_[3]; }
  void select_run(hid_t space, const SlabPiece& piece, const TokenRun& run, H5S_seloper_t& how) const;

  std::array<std::int64_t, 4> extent_;  // of the dataset; dim 1 where it has three dimensions
  int rank_;
  SlabSelection selection_;
  std::vector<std::array<int, 2>> head_runs_;  // [begin, end)
  std::int64_t tokens_;
};

}  // namespace ringscan
