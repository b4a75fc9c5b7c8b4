#include <fnmatch.h>

#include <algorithm>

#include "core/error.hpp"
#include "io/activation_file.hpp"
#include "io/catalogue.hpp"
#include "io/collective_file.hpp"
#include "io/finite_check.hpp"
#include "io/hdf5_types.hpp"
#include "io/messages.hpp"
#include "io/open_dataset.hpp"
#include "io/slab.hpp"

namespace ringscan {
namespace {

constexpr std::string_view kDamaged = "truncated or damaged";

/// float64 passes through memory of its own on its way to float32; no more of it than this.
constexpr std::size_t kStagingBytes = std::size_t{64} << 20;

/// @throws where its elements are none of our types.
const DatasetInfo& require_floats(const std::string& file, const DatasetInfo& dataset) {
  if (dataset.is_activation) return dataset;
  throw bad_input(subject_of(file, dataset.path) + ": " + dataset.found_type +
                  " found, float64, float32, float16 or bfloat16 wanted");
}

/// A box of a dataset of any rank, contiguous in a dense copy of the whole.
struct Box {
  std::vector<hsize_t> start;
  std::vector<hsize_t> count;
  std::int64_t first_element = 0;
  std::int64_t element_count = 1;
};

/// Boxes of at most `limit` elements that together are the whole.
std::vector<Box> whole_in_boxes(const std::vector<std::int64_t>& shape, std::int64_t limit) {
  // Cut along the first axis of which one step fits.
  std::int64_t step_elements = 1, prefixes = 1, total = 1;
  for (const std::int64_t extent : shape) total *= extent;
  if (total == 0) return {};
  step_elements = total;
  std::size_t axis = 0;
  for (; axis < shape.size(); ++axis) {
    step_elements /= shape[axis];
    if (step_elements <= limit || axis + 1 == shape.size()) break;
    prefixes *= shape[axis];
  }
  const std::int64_t extent = shape.empty() ? 1 : shape[axis];
  const std::int64_t steps = std::max<std::int64_t>(1, limit / step_elements);
  std::vector<Box> boxes;
  for (std::int64_t prefix = 0; prefix < prefixes; ++prefix) {
    for (std::int64_t begin = 0; begin < extent; begin += steps) {
      Box box{std::vector<hsize_t>(shape.size(), 0), std::vector<hsize_t>(shape.begin(), shape.end())};
      const std::int64_t count = std::min(steps, extent - begin);
      box.first_element = (prefix * extent + begin) * step_elements;
      box.element_count = count * step_elements;
      if (!shape.empty()) {
        box.start[axis] = static_cast<hsize_t>(begin);
        box.count[axis] = static_cast<hsize_t>(count);
      }
      std::int64_t rest = prefix;
      for (std::size_t before = axis; before-- > 0; rest /= shape[before]) {
        box.start[before] = static_cast<hsize_t>(rest % shape[before]);
        box.count[before] = 1;
      }
      boxes.push_back(std::move(box));
    }
  }
  return boxes;
}

void to_float64(const void* data, ElementType type, double* to, std::size_t count) {
  visit_element_type(type, [&](auto element) {
    const auto* from = static_cast<const decltype(element)*>(data);
    if constexpr (std::is_same_v<decltype(element), double>) {
      std::copy(from, from + count, to);
    } else {
      std::transform(from, from + count, to, [](auto x) { return static_cast<double>(to_float(x)); });
    }
  });
}

}  // namespace

class ActivationReader::Impl {
 public:
  Impl(FileAccess& access, std::string path) : access_(access), path_(std::move(path)), file_(access) {
    std::string packed;
    run_collectively(group(), [&] {
      if (group().rank() == 0) packed = read_catalogue(path_).packed();
    });
    group().broadcast(packed, 0);
    catalogue_ = Catalogue::unpacked(packed);
    file_.open(path_);
  }
  ~Impl() {
    const Hdf5Lock lock;
    lone_file_.close();
  }

  const std::string& path() const { return path_; }
  RankGroup& group() const { return access_.group(); }
  const Catalogue& catalogue() const { return catalogue_; }
  const TransferRecord& record() const { return record_; }

  Buffer read_slab(const DatasetInfo& dataset, const SlabSelection& selection, bool check_finite, MemoryLedger* ledger,
                   MemorySpace& space);
  std::vector<double> read_whole(const DatasetInfo& dataset);
  std::vector<double> read_head(const DatasetInfo& dataset, std::int64_t batch, const TokenRun& run, std::int64_t head);

 private:
  const CatalogueEntry& entry_of(const DatasetInfo& dataset) const {
    const CatalogueEntry* entry = catalogue_.find(dataset.path);
    if (entry == nullptr) throw bad_input(subject_of(path_, dataset.path) + " is missing");
    require_floats(path_, entry->info);
    return *entry;
  }
  void settle(const CatalogueEntry& entry, const Slab& slab, const SlabPiece& piece, Buffer& out, Buffer& staging,
              FiniteCheck* check) const;

  FileAccess& access_;
  std::string path_;
  CollectiveFile file_;
  Hdf5File lone_file_;  // for reads that the other ranks take no part in
  Catalogue catalogue_;
  TransferRecord record_;
};

/// What follows a piece's transfer: byte order, float64 to float32, finiteness.
void ActivationReader::Impl::settle(const CatalogueEntry& entry, const Slab& slab, const SlabPiece& piece, Buffer& out,
                                    Buffer& staging, FiniteCheck* check) const {
  const ElementType type = entry.info.type;
  const ElementType memory_type = type_in_memory(type);
  const auto count = static_cast<std::size_t>(piece.element_count);
  std::byte* settled = out.as<std::byte>() + static_cast<std::size_t>(piece.first_element) * size_of(memory_type);
  std::byte* arrived = memory_type == type ? settled : staging.as<std::byte>();
  if (entry.is_byte_swapped) swap_bytes(arrived, type, count);
  if (memory_type != type) convert_elements(arrived, type, settled, memory_type, count);
  if (check == nullptr || check->has_found()) return;
  const auto bad = FiniteCheck::first_nonfinite(settled, memory_type, piece.element_count);
  if (!bad) return;
  double value = 0.0;
  to_float64(arrived + static_cast<std::size_t>(*bad) * size_of(type), type, &value, 1);
  check->note(slab.to_global(piece.first_element + *bad), value);
}

Buffer ActivationReader::Impl::read_slab(const DatasetInfo& dataset, const SlabSelection& selection, bool check_finite,
                                         MemoryLedger* ledger, MemorySpace& home) {
  const CatalogueEntry* entry = nullptr;
  std::optional<Slab> slab;
  std::vector<SlabPiece> pieces;
  Buffer out, staging;
  std::int64_t largest_piece = 0;
  run_collectively(group(), [&] {
    entry = &entry_of(dataset);
    const ElementType type = entry->info.type;
    const bool is_staged = type_in_memory(type) != type;
    slab.emplace(path_, entry->info, selection);
    pieces =
        slab->pieces(size_of(type), is_staged ? std::min(kStagingBytes, piece_limit_bytes()) : piece_limit_bytes());
    for (const SlabPiece& piece : pieces) largest_piece = std::max(largest_piece, piece.element_count);
    out = Buffer(static_cast<std::size_t>(slab->element_count()) * size_of(type_in_memory(type)), ledger, home);
    if (is_staged) staging = Buffer(static_cast<std::size_t>(largest_piece) * size_of(type), ledger);
  });
  const std::int64_t transfers = group().all_reduce(static_cast<std::int64_t>(pieces.size()), ReduceOp::kMax);
  if (transfers == 0) return out;

  const std::string subject = subject_of(path_, dataset.path);
  const Hdf5Blame damaged{ExitCode::kBadInput, subject, kDamaged};
  std::optional<OpenDataset> open;
  run_collectively(group(), [&] {
    const Hdf5Lock lock;
    open.emplace(access_, file_.get(), dataset.path, largest_piece, damaged);
  });
  FiniteCheck check;
  run_transfers(group(), transfers, [&](std::size_t i) {
    if (i >= pieces.size()) return open->transfer(OpenDataset::Direction::kRead, nullptr, 0, {}, damaged, record_);
    const SlabPiece& piece = pieces[i];
    std::byte* memory = staging.size_bytes() > 0 ? staging.as<std::byte>()
                                                 : out.as<std::byte>() + static_cast<std::size_t>(piece.first_element) *
                                                                             size_of(entry->info.type);
    open->transfer(
        OpenDataset::Direction::kRead, memory, piece.element_count, [&](hid_t space) { slab->select(space, piece); },
        damaged, record_);
    settle(*entry, *slab, piece, out, staging, check_finite ? &check : nullptr);
  });
  if (check_finite) check.agree(group(), path_, entry->info);
  return out;
}

std::vector<double> ActivationReader::Impl::read_whole(const DatasetInfo& dataset) {
  const CatalogueEntry* entry = nullptr;
  std::vector<Box> boxes;
  std::vector<double> whole;
  Buffer staging;
  std::int64_t largest_box = 0;
  run_collectively(group(), [&] {
    entry = &entry_of(dataset);
    const std::size_t element_bytes = size_of(entry->info.type);
    boxes = whole_in_boxes(entry->info.shape, static_cast<std::int64_t>(std::max<std::size_t>(
                                                  1, std::min(kStagingBytes, piece_limit_bytes()) / element_bytes)));
    std::int64_t total = 0;
    for (const Box& box : boxes) {
      largest_box = std::max(largest_box, box.element_count);
      total += box.element_count;
    }
    staging = Buffer(static_cast<std::size_t>(largest_box) * element_bytes);
    whole.resize(static_cast<std::size_t>(total));
  });
  if (boxes.empty()) return whole;

  const std::string subject = subject_of(path_, dataset.path);
  const Hdf5Blame damaged{ExitCode::kBadInput, subject, kDamaged};
  std::optional<OpenDataset> open;
  run_collectively(group(), [&] {
    const Hdf5Lock lock;
    open.emplace(access_, file_.get(), dataset.path, largest_box, damaged);
  });
  run_transfers(group(), static_cast<std::int64_t>(boxes.size()), [&](std::size_t i) {
    const Box& box = boxes[i];
    const auto select = [&](hid_t space) {
      if (box.start.empty()) return;  // a scalar has nothing to select
      checked(H5Sselect_hyperslab(space, H5S_SELECT_SET, box.start.data(), nullptr, box.count.data(), nullptr));
    };
    open->transfer(OpenDataset::Direction::kRead, staging.data(), box.element_count, select, damaged, record_);
    const auto count = static_cast<std::size_t>(box.element_count);
    if (entry->is_byte_swapped) swap_bytes(staging.data(), entry->info.type, count);
    to_float64(staging.data(), entry->info.type, whole.data() + box.first_element, count);
  });
  return whole;
}

std::vector<double> ActivationReader::Impl::read_head(const DatasetInfo& dataset, std::int64_t batch,
                                                      const TokenRun& run, std::int64_t head) {
  const CatalogueEntry& entry = entry_of(dataset);
  const Slab slab(path_, entry.info, {{run}, {static_cast<int>(head)}});
  const std::vector<std::int64_t>& shape = entry.info.shape;
  if (batch < 0 || batch >= shape[0]) {
    throw failure(subject_of(path_, dataset.path) + ": there is no batch item " + std::to_string(batch));
  }
  const std::int64_t count = run.size() * (shape.size() == 4 ? shape[3] : 1);
  std::vector<double> rows(static_cast<std::size_t>(count));
  if (count == 0) return rows;
  Buffer staging(static_cast<std::size_t>(count) * size_of(entry.info.type));

  const std::string subject = subject_of(path_, dataset.path);
  const Hdf5Blame damaged{ExitCode::kBadInput, subject, kDamaged};
  const Hdf5Lock lock;
  // Through the POSIX driver: with the collective handle even opening a dataset takes all ranks.
  if (!lone_file_.is_open())
    lone_file_ = Hdf5File(checked(H5Fopen(path_.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), damaged));
  const Hdf5Dataset opened(checked(H5Dopen2(lone_file_.get(), dataset.path.c_str(), H5P_DEFAULT), damaged));
  const Hdf5Type type(checked(H5Dget_type(opened.get()), damaged));
  const Hdf5Space file_space(checked(H5Dget_space(opened.get()), damaged));
  slab.select(file_space.get(), {batch, 1, 0, run.size(), 0, count});
  const hsize_t extent = static_cast<hsize_t>(count);
  const Hdf5Space memory_space(checked(H5Screate_simple(1, &extent, nullptr)));
  checked(H5Dread(opened.get(), type.get(), memory_space.get(), file_space.get(), H5P_DEFAULT, staging.data()),
          damaged);
  if (entry.is_byte_swapped) swap_bytes(staging.data(), entry.info.type, rows.size());
  to_float64(staging.data(), entry.info.type, rows.data(), rows.size());
  return rows;
}

ActivationReader::ActivationReader(FileAccess& access, std::string path)
    : impl_(std::make_unique<Impl>(access, std::move(path))) {}
ActivationReader::~ActivationReader() = default;
ActivationReader::ActivationReader(ActivationReader&&) noexcept = default;

const std::string& ActivationReader::path() const {
  return impl_->path();
}

RankGroup& ActivationReader::group() const {
  return impl_->group();
}

std::vector<std::string> ActivationReader::layers(const std::string& glob) const {
  const std::vector<std::string> all = impl_->catalogue().layers();
  if (all.empty()) {
    throw bad_input(path() + ": no datasets found, wanted under /layers/<name>/ or at the root");
  }
  std::vector<std::string> matching;
  for (const std::string& name : all) {
    if (fnmatch(glob.c_str(), name.c_str(), 0) == 0) matching.push_back(name);
  }
  if (!matching.empty()) return matching;
  std::string names;
  for (const std::string& name : all)
    names += (names.empty() ? "" : ", ") + (name.empty() ? "one without a name" : name);
  throw bad_input(path() + ": no layer matches '" + glob + "', found: " + names);
}

std::optional<DatasetInfo> ActivationReader::find(const std::string& layer, const std::string& dataset) const {
  const CatalogueEntry* entry = impl_->catalogue().find(dataset_path(layer, dataset));
  if (entry == nullptr) return std::nullopt;
  return require_floats(path(), entry->info);
}

DatasetInfo ActivationReader::require(const std::string& layer, const std::string& dataset,
                                      const std::vector<std::int64_t>& want) const {
  const std::string subject = subject_of(path(), dataset_path(layer, dataset));
  const std::optional<DatasetInfo> found = find(layer, dataset);
  if (!found) throw bad_input(subject + " is missing, wanted with shape " + shape_text(want));
  const bool fits = std::equal(found->shape.begin(), found->shape.end(), want.begin(), want.end(),
                               [](std::int64_t is, std::int64_t wanted) { return wanted < 0 || is == wanted; });
  if (!fits) {
    throw bad_input(subject + ": shape " + shape_text(found->shape) + " found, " + shape_text(want) + " wanted");
  }
  return *found;
}

std::vector<DatasetInfo> ActivationReader::datasets() const {
  std::vector<DatasetInfo> all;
  for (const CatalogueEntry& entry : impl_->catalogue().entries) all.push_back(entry.info);
  return all;
}

std::map<std::string, std::string> ActivationReader::attributes() const {
  return impl_->catalogue().attributes;
}

Buffer ActivationReader::read_slab(const DatasetInfo& dataset, const SlabSelection& selection, bool check_finite,
                                   MemoryLedger* ledger, MemorySpace& space) {
  return impl_->read_slab(dataset, selection, check_finite, ledger, space);
}
std::vector<double> ActivationReader::read_whole(const DatasetInfo& dataset) {
  return impl_->read_whole(dataset);
}
std::vector<double> ActivationReader::read_head(const DatasetInfo& dataset, std::int64_t batch, const TokenRun& run,
                                                std::int64_t head) {
  return impl_->read_head(dataset, batch, run, head);
}

const TransferRecord& ActivationReader::record() const {
  return impl_->record();
}

}  // namespace ringscan
