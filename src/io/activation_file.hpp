#pragma once
// Activation files: plain HDF5, token-major, read and written collectively. See docs/activation-files.md.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/buffer.hpp"
#include "core/element_type.hpp"
#include "core/tensor_view.hpp"
#include "core/token_run.hpp"
#include "io/file_access.hpp"

namespace ringscan {

struct DatasetInfo {
  std::string path;  ///< within the file, "/layers/0/q"
  ElementType type = ElementType::kFloat32;
  std::vector<std::int64_t> shape;
  bool is_chunked = false;
  bool is_activation = true;  ///< false: its elements are none of our types; datasets() alone gives such a one
  std::string found_type;     ///< as the file has it: "bfloat16", "64-bit integer"
};

/// The part of a [batch, seq, head, dim] (or [batch, seq, head]: dim 1, and so on: a parameter [rows, columns] is all
/// of "batch" with "tokens" [0, columns) and "head" 0) dataset one rank transfers: all of batch and dim, some runs of
/// tokens (ascending, apart from each other; none: the rank takes part with nothing) and some heads (ascending).
struct SlabSelection {
  std::vector<TokenRun> tokens;
  std::vector<int> heads;

  std::int64_t token_count() const;
};

/// What the transfers of a file came to, over all of them.
struct TransferRecord {
  std::size_t bytes = 0;  ///< of this rank
  double seconds = 0.0;
  std::int64_t transfers = 0;
  std::int64_t not_collective = 0;  ///< transfers that HDF5 itself says it did not do collectively (MPI-IO only)
};

/// Reads. Construction and every function marked so are collective; an error on one rank is thrown on all of them.
class ActivationReader {
 public:
  /// Collective. @throws Error(kBadInput): no such file, not HDF5, truncated.
  ActivationReader(FileAccess& access, std::string path);
  ~ActivationReader();
  ActivationReader(ActivationReader&&) noexcept;

  const std::string& path() const;
  /// The ranks that have it open.
  RankGroup& group() const;
  /// Names of the layer groups that match the glob, in natural order ("2" before "10"); {""} for datasets at the root.
  /// Not collective (like the next three: what they return was read, and agreed on, when the file was opened).
  /// @throws Error(kBadInput) where none matches.
  std::vector<std::string> layers(const std::string& glob = "*") const;
  /// @throws Error(kBadInput) where it is there, but holds no floats.
  std::optional<DatasetInfo> find(const std::string& layer, const std::string& dataset) const;
  /// @throws Error(kBadInput) naming file, dataset, the shape found and the one wanted. -1 in `want`: any extent.
  DatasetInfo require(const std::string& layer, const std::string& dataset,
                      const std::vector<std::int64_t>& want) const;
  /// All datasets of the file, those that hold no floats too, in the natural order of their paths; `inspect` lists
  /// them.
  std::vector<DatasetInfo> datasets() const;
  /// Root attributes as text.
  std::map<std::string, std::string> attributes() const;

  /// Collective. The selected slab, dense [batch, selected tokens, selected heads, dim], into a buffer of a space that
  /// the host reaches, counted in `ledger`; float64 arrives as float32, everything else in the file's own type.
  /// Transfers happen in the file's type (a conversion inside HDF5 would make them independent), in pieces of at most 1
  /// GiB, equally many on all ranks.
  /// @throws Error(kBadInput) where the file is damaged, or (check_finite) holds NaN or infinity.
  Buffer read_slab(const DatasetInfo& dataset, const SlabSelection& selection, bool check_finite, MemoryLedger* ledger,
                   MemorySpace& space = host_memory());
  /// Collective. A whole dataset of any rank, as float64, on every rank: for parameters and for the oracle.
  std::vector<double> read_whole(const DatasetInfo& dataset);
  /// Not collective over MPI-IO (an independent read): tokens [run) of one head of one batch item, as float64
  /// [run.size(), dim]: for the oracle.
  std::vector<double> read_head(const DatasetInfo& dataset, std::int64_t batch, const TokenRun& run, std::int64_t head);

  const TransferRecord& record() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// The type a slab of this dataset has once read.
constexpr ElementType type_in_memory(ElementType in_file) {
  return in_file == ElementType::kFloat64 ? ElementType::kFloat32 : in_file;
}

/// Writes to a temporary name beside the target; finish() marks it complete and renames it. Destroyed before that, it
/// removes the temporary file, unless suspend() has left it for a later writer that `resumes`.
class ActivationWriter {
 public:
  /// Collective. @throws Error(kBadInput) where the target exists (and not `overwrite`) or its folder cannot be
  /// written; `resumes`: where there is no temporary file to go on with.
  ActivationWriter(FileAccess& access, std::string path, bool overwrite, bool resumes = false);
  ~ActivationWriter();
  ActivationWriter(ActivationWriter&&) noexcept;

  /// Collective. Makes a dataset (contiguous) in the layer's group; layer "" is the root. Returns its description. A
  /// writer that resumes takes the one that is there. @throws Error(kBadInput) where that is another.
  DatasetInfo create(const std::string& layer, const std::string& dataset, ElementType type,
                     const std::vector<std::int64_t>& shape);
  /// Collective. `data` is dense [batch, selected tokens, selected heads, dim] in the dataset's type (float64: as
  /// float64).
  void write_slab(const DatasetInfo& dataset, const SlabSelection& selection, const void* data);
  /// Collective. Root attributes.
  void set_attribute(const std::string& name, const std::string& text);
  void set_attribute(const std::string& name, double number);
  void set_attribute(const std::string& name, std::int64_t number);
  /// Collective. All datasets are made: were the job killed from now on, what it had written by then could be read.
  void settle();
  /// Collective. Closes and leaves the temporary file where it is.
  void suspend();
  /// Collective. Writes `complete = 1` last, closes and renames to the target.
  void finish();

  const TransferRecord& record() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ringscan
