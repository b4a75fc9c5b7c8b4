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
#include "io/progress_file.hpp"
#include "io/slab.hpp"

namespace ringscan {
namespace {

/// The temporary file's name, taken away again unless kept.
class PartialFile {
 public:
  explicit PartialFile(const std::string& target) : target_(target), path_(partial_path(target)) {}
  ~PartialFile() {
    if (!is_ours_) return;
    remove_progress(target_);
    unlink(path_.c_str());
  }
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  void own() { is_ours_ = true; }
  void keep() { is_ours_ = false; }
  const std::string& path() const { return path_; }

 private:
  std::string target_;
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

/// @throws Error(kBadInput) where the file has no such dataset of this type and shape.
void check_dataset(hid_t file, const DatasetInfo& info, const std::string& target) {
  const Hdf5Blame blame{ExitCode::kBadInput, subject_of(target, info.path),
                        "is not in the partial output; run without --resume"};
  const Hdf5Dataset dataset(checked(H5Dopen2(file, info.path.c_str(), H5P_DEFAULT), blame));
  const Hdf5Space space(checked(H5Dget_space(dataset.get()), blame));
  std::vector<hsize_t> extents(static_cast<std::size_t>(std::max(0, H5Sget_simple_extent_ndims(space.get()))));
  H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr);
  const Hdf5Type found(checked(H5Dget_type(dataset.get()), blame));
  const Hdf5Type wanted = make_hdf5_type(info.type);
  const bool same_shape = std::equal(extents.begin(), extents.end(), info.shape.begin(), info.shape.end(),
                                     [](hsize_t a, std::int64_t b) { return static_cast<std::int64_t>(a) == b; });
  if (same_shape && H5Tequal(found.get(), wanted.get()) > 0) return;
  throw bad_input(subject_of(target, info.path) +
                  " of the partial output has another type or shape; run without --resume");
}

}  // namespace

class ActivationWriter::Impl {
 public:
  Impl(FileAccess& access, std::string target, bool overwrite, bool resumes)
      : access_(access),
        target_(std::move(target)),
        overwrite_(overwrite),
        resumes_(resumes),
        file_(access),
        partial_(target_) {
    if (resumes_) {
      reopen();
      return;
    }
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
  void settle();
  void suspend();
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

  /// A failure from here on does not take away what an earlier run has left.
  void reopen() {
    run_collectively(group(), [&] {
      if (group().rank() == 0) check_target(target_, overwrite_);
    });
    file_.reopen(partial_.path(), target_);
  }

  FileAccess& access_;
  std::string target_;
  bool overwrite_;
  bool resumes_;
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
  change_structure([&] {
    if (resumes_) return check_dataset(file_.get(), info, target_);
    create_dataset(file_.get(), info, {ExitCode::kFailure, subject, "cannot be created"});
  });
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

void ActivationWriter::Impl::settle() {
  const Hdf5Blame unwritable{ExitCode::kFailure, target_, "cannot be written"};
  change_structure([&] { checked(H5Fflush(file_.get(), H5F_SCOPE_GLOBAL), unwritable); });
}

void ActivationWriter::Impl::suspend() {
  settle();
  file_.close(target_);
  partial_.keep();
}

void ActivationWriter::Impl::finish() {
  settle();  // all else is in the file before it is called complete
  set_attribute("complete", std::int64_t{1});
  file_.close(target_);
  run_collectively(group(), [&] {
    if (group().rank() != 0) return;
    move_to_target(target_, overwrite_);
    remove_progress(target_);  // a record without its partial file is nothing to go on from
  });
  partial_.keep();
}

ActivationWriter::ActivationWriter(FileAccess& access, std::string path, bool overwrite, bool resumes)
    : impl_(std::make_unique<Impl>(access, std::move(path), overwrite, resumes)) {}
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
void ActivationWriter::settle() {
  impl_->settle();
}
void ActivationWriter::suspend() {
  impl_->suspend();
}
void ActivationWriter::finish() {
  impl_->finish();
}
const TransferRecord& ActivationWriter::record() const {
  return impl_->record();
}

}  // namespace ringscan
