#include <unistd.h>

#include <algorithm>

#include "core/error.hpp"
#include "io/activation_file.hpp"
#include "io/catalogue.hpp"
#include "io/collective_file.hpp"
#include "io/hdf5_attributes.hpp"
#include "io/hdf5_types.hpp"
#include "io/messages.hpp"
#include "io/open_dataset.hpp"
#include "io/output_path.hpp"
#include "io/slab.hpp"

namespace ringscan {
namespace {

/// The temporary file's name, taken away again unless kept.
class PartialFile {
 public:
  explicit PartialFile(const std::string& target) : path_(partial_path(target)) {}
  ~PartialFile() {
    if (is_ours_) unlink(path_.c_str());
  }
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  void own() { is_ours_ = true; }
  void keep() { is_ours_ = false; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  bool is_ours_ = false;
};

void create_dataset(hid_t file, const DatasetInfo& info, const Hdf5Blame& blame) {
  const std::vector<hsize_t> extents(info.shape.begin(), info.shape.end());
  const Hdf5Type type = make_hdf5_type(info.type);
  const Hdf5Space space(checked(H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr), blame));
  const Hdf5Properties links(checked(H5Pcreate(H5P_LINK_CREATE)));
  checked(H5Pset_create_intermediate_group(links.get(), 1));
  const Hdf5Properties creation(checked(H5Pcreate(H5P_DATASET_CREATE)));
  checked(H5Pset_layout(creation.get(), H5D_CONTIGUOUS));
  checked(H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY));
  checked(H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER));  // every element is written anyway
  checked(H5Pset_obj_track_times(creation.get(), false));          // equal runs give equal files
  Hdf5Dataset dataset(checked(
      H5Dcreate2(file, info.path.c_str(), type.get(), space.get(), links.get(), creation.get(), H5P_DEFAULT), blame));
  checked(dataset.close(), blame);
}

}  // namespace

class ActivationWriter::Impl {
 public:
  Impl(FileAccess& access, std::string target, bool overwrite)
      : access_(access), target_(std::move(target)), overwrite_(overwrite), file_(access), partial_(target_) {
    run_collectively(group(), [&] {
      if (group().rank() == 0) {
        make_partial_file(target_, overwrite_);
        partial_.own();
      } else {
        check_output_folder(target_);
      }
    });
    // Over MPI-IO a rank may fail alone and end the job: it cleans up then, whichever it is.
    if (access_.is_parallel()) partial_.own();
    file_.create(partial_.path(), target_);
  }

  DatasetInfo create(const std::string& layer, const std::string& dataset, ElementType type,
                     const std::vector<std::int64_t>& shape);
  void write_slab(const DatasetInfo& dataset, const SlabSelection& selection, const void* data);
  void finish();
  const TransferRecord& record() const { return record_; }

  template <typename Value>
  void set_attribute(const std::string& name, const Value& value) {
    change_structure([&] { write_root_attribute(file_.get(), name, value); });
  }

 private:
  RankGroup& group() const { return access_.group(); }

  /// Over MPI-IO all ranks make the same changes; those that share a process leave them to rank 0.
  template <typename Change>
  void change_structure(const Change& change) {
    run_collectively(group(), [&] {
      if (!file_.is_open()) throw failure(target_ + ": is finished, nothing can be added");
      if (!access_.is_parallel() && group().rank() != 0) return;
      const Hdf5Lock lock;
      change();
    });
  }

  FileAccess& access_;
  std::string target_;
  bool overwrite_;
  CollectiveFile file_;
  PartialFile partial_;  // behind file_: its name goes before the ranks meet to close, so none can hit a later writer's
  TransferRecord record_;
};

DatasetInfo ActivationWriter::Impl::create(const std::string& layer, const std::string& dataset, ElementType type,
                                           const std::vector<std::int64_t>& shape) {
  DatasetInfo info;
  info.path = dataset_path(layer, dataset);
  info.type = type;
  info.shape = shape;
  info.found_type = name_of(type);
  const std::string subject = subject_of(target_, info.path);
  change_structure([&] { create_dataset(file_.get(), info, {ExitCode::kFailure, subject, "cannot be created"}); });
  return info;
}

void ActivationWriter::Impl::write_slab(const DatasetInfo& dataset, const SlabSelection& selection, const void* data) {
  std::optional<Slab> slab;
  std::vector<SlabPiece> pieces;
  std::int64_t largest_piece = 0;
  run_collectively(group(), [&] {
    if (!file_.is_open()) throw failure(target_ + ": is finished, nothing can be added");
    slab.emplace(target_, dataset, selection);
    pieces = slab->pieces(size_of(dataset.type), piece_limit_bytes());
    for (const SlabPiece& piece : pieces) largest_piece = std::max(largest_piece, piece.element_count);
  });
  const std::int64_t transfers = group().all_reduce(static_cast<std::int64_t>(pieces.size()), ReduceOp::kMax);
  if (transfers == 0) return;

  const std::string subject = subject_of(target_, dataset.path);
  const Hdf5Blame unwritable{ExitCode::kFailure, subject, "cannot be written"};
  std::optional<OpenDataset> open;
  run_collectively(group(), [&] {
    const Hdf5Lock lock;
    open.emplace(access_, file_.get(), dataset.path, largest_piece, unwritable);
  });
  // HDF5 takes one address for both directions; it does not write to this one.
  auto* memory = static_cast<std::byte*>(const_cast<void*>(data));
  run_transfers(group(), transfers, [&](std::size_t i) {
    if (i >= pieces.size()) return open->transfer(OpenDataset::Direction::kWrite, nullptr, 0, {}, unwritable, record_);
    const SlabPiece& piece = pieces[i];
    open->transfer(
        OpenDataset::Direction::kWrite, memory + static_cast<std::size_t>(piece.first_element) * size_of(dataset.type),
        piece.element_count, [&](hid_t space) { slab->select(space, piece); }, unwritable, record_);
  });
}

void ActivationWriter::Impl::finish() {
  const Hdf5Blame unwritable{ExitCode::kFailure, target_, "cannot be written"};
  // All else is in the file before it is called complete.
  change_structure([&] { checked(H5Fflush(file_.get(), H5F_SCOPE_GLOBAL), unwritable); });
  set_attribute("complete", std::int64_t{1});
  file_.close(target_);
  run_collectively(group(), [&] {
    if (group().rank() == 0) move_to_target(target_, overwrite_);
  });
  partial_.keep();
}

ActivationWriter::ActivationWriter(FileAccess& access, std::string path, bool overwrite)
    : impl_(std::make_unique<Impl>(access, std::move(path), overwrite)) {}
ActivationWriter::~ActivationWriter() = default;
ActivationWriter::ActivationWriter(ActivationWriter&&) noexcept = default;

DatasetInfo ActivationWriter::create(const std::string& layer, const std::string& dataset, ElementType type,
                                     const std::vector<std::int64_t>& shape) {
  return impl_->create(layer, dataset, type, shape);
}
void ActivationWriter::write_slab(const DatasetInfo& dataset, const SlabSelection& selection, const void* data) {
  impl_->write_slab(dataset, selection, data);
}
void ActivationWriter::set_attribute(const std::string& name, const std::string& text) {
  impl_->set_attribute(name, text);
}
void ActivationWriter::set_attribute(const std::string& name, double number) {
  impl_->set_attribute(name, number);
}
void ActivationWriter::set_attribute(const std::string& name, std::int64_t number) {
  impl_->set_attribute(name, number);
}
void ActivationWriter::finish() {
  impl_->finish();
}
const TransferRecord& ActivationWriter::record() const {
  return impl_->record();
}

}  // namespace ringscan
