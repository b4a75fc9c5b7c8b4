// Walks a file's groups. The only reading that knows links and attributes.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "io/catalogue.hpp"
#include "io/hdf5_attributes.hpp"
#include "io/hdf5_handles.hpp"
#include "io/hdf5_types.hpp"
#include "io/messages.hpp"

namespace ringscan {
namespace {

/// /layers/<name>/ssm/u and some room; links may run in circles.
constexpr int kMaxDepth = 8;

constexpr std::string_view kDamaged = "truncated or damaged";

/// @throws Error(kBadInput) unless it is a file that can be read and has HDF5's signature. Returns its bytes.
std::int64_t check_signature(const std::string& path) {
  struct stat info {};
  if (path.empty()) throw bad_input("the input's file name is empty");
  if (stat(path.c_str(), &info) != 0) {
    throw bad_input(path + ": " + (errno == ENOENT ? "no such file" : std::strerror(errno)));
  }
  if (!S_ISREG(info.st_mode)) throw bad_input(path + ": not a regular file, an HDF5 file is wanted");
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw bad_input(path + ": cannot be read: " + std::strerror(errno));
  constexpr std::array<char, 8> kSignature{'\x89', 'H', 'D', 'F', '\r', '\n', '\x1a', '\n'};
  std::array<char, 8> found{};
  bool has_signature = false;
  // At the beginning, or behind a user block of 512 bytes or a power of two times that.
  for (off_t at = 0; !has_signature && at < info.st_size; at = at == 0 ? 512 : at * 2) {
    has_signature = pread(file, found.data(), found.size(), at) == 8 && found == kSignature;
  }
  close(file);
  if (!has_signature) throw bad_input(path + ": not an HDF5 file");
  return info.st_size;
}

class Walk {
 public:
  Walk(const std::string& path, std::int64_t file_bytes) : path_(path), file_bytes_(file_bytes) {}

  void visit_group(hid_t group, const std::string& prefix, bool is_external, int depth) {
    std::vector<Link> links;
    hsize_t from = 0;
    checked(H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, &from, &Walk::note_link, &links),
            {ExitCode::kBadInput, path_, kDamaged});
    for (const Link& link : links) visit_link(group, link, prefix, is_external, depth);
  }

  Catalogue catalogue;

 private:
  struct Link {
    std::string name;
    bool is_hard = true;
    bool is_external = false;
  };

  static herr_t note_link(hid_t, const char* name, const H5L_info_t* info, void* links) noexcept {
    static_cast<std::vector<Link>*>(links)->push_back(
        {name, info->type == H5L_TYPE_HARD, info->type == H5L_TYPE_EXTERNAL});
    return 0;
  }

  void visit_link(hid_t group, const Link& link, const std::string& prefix, bool is_external, int depth) {
    const std::string path = prefix + "/" + link.name;
    const Hdf5Object object(H5Oopen(group, link.name.c_str(), H5P_DEFAULT));
    if (!object.is_open()) {
      if (!link.is_hard) return;  // a link to nowhere: as if the dataset were missing
      checked(object.get(), {ExitCode::kBadInput, path_, kDamaged});
    }
    const bool elsewhere = is_external || link.is_external;
    const H5I_type_t kind = H5Iget_type(object.get());
    if (kind == H5I_GROUP && depth < kMaxDepth) visit_group(object.get(), path, elsewhere, depth + 1);
    if (kind == H5I_DATASET) visit_dataset(object.get(), path, elsewhere);
  }

  void visit_dataset(hid_t dataset, const std::string& path, bool is_external) {
    const std::string subject = subject_of(path_, path);
    const Hdf5Blame damaged{ExitCode::kBadInput, subject, kDamaged};
    CatalogueEntry entry;
    entry.info.path = path;
    const Hdf5Type type(checked(H5Dget_type(dataset), damaged));
    const std::optional<ElementType> element = recognise_hdf5_type(type.get());
    entry.info.is_activation = element.has_value();
    entry.info.type = element.value_or(ElementType::kFloat32);
    entry.info.found_type = element ? std::string(name_of(*element)) : describe_hdf5_type(type.get());
    entry.is_byte_swapped = element && is_byte_swapped(type.get());

    const Hdf5Space space(checked(H5Dget_space(dataset), damaged));
    std::vector<hsize_t> extents(static_cast<std::size_t>(checked(H5Sget_simple_extent_ndims(space.get()), damaged)));
    checked(H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr), damaged);
    entry.info.shape.assign(extents.begin(), extents.end());
    if (H5Sget_simple_extent_type(space.get()) == H5S_NULL) entry.info.shape = {0};

    const Hdf5Properties creation(checked(H5Dget_create_plist(dataset), damaged));
    entry.info.is_chunked = H5Pget_layout(creation.get()) == H5D_CHUNKED;
    if (!is_external) check_extent(dataset, subject);
    catalogue.entries.push_back(std::move(entry));
  }

  /// A contiguous dataset (those alone have an offset) must end where the file does or before.
  void check_extent(hid_t dataset, const std::string& subject) const {
    const haddr_t offset = H5Dget_offset(dataset);
    if (offset == HADDR_UNDEF) return;
    const auto end = static_cast<std::int64_t>(offset + H5Dget_storage_size(dataset));
    if (end <= file_bytes_) return;
    throw bad_input(subject + ": truncated: " + std::to_string(end) + " bytes of the file wanted, " +
                    std::to_string(file_bytes_) + " found");
  }

  const std::string& path_;
  std::int64_t file_bytes_;
};

}  // namespace

Catalogue read_catalogue(const std::string& path) {
  const std::int64_t file_bytes = check_signature(path);
  const Hdf5Lock lock;
  const Hdf5File file(
      checked(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), {ExitCode::kBadInput, path, kDamaged}));
  Walk walk(path, file_bytes);
  walk.visit_group(file.get(), "", false, 0);
  walk.catalogue.attributes = read_root_attributes(file.get(), path);
  std::sort(walk.catalogue.entries.begin(), walk.catalogue.entries.end(),
            [](const CatalogueEntry& a, const CatalogueEntry& b) { return natural_less(a.info.path, b.info.path); });
  return std::move(walk.catalogue);
}

}  // namespace ringscan
