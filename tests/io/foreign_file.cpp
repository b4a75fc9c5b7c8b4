#include "tests/io/foreign_file.hpp"

#include <unistd.h>

#include <fstream>

#include "io/hdf5_handles.hpp"
#include "io/hdf5_types.hpp"
#include "tests/io/sample_data.hpp"

namespace ringscan::test {
namespace {

Hdf5File make_or_open(const std::string& file) {
  if (::access(file.c_str(), F_OK) != 0) {
    return Hdf5File(checked(H5Fcreate(file.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT)));
  }
  return Hdf5File(checked(H5Fopen(file.c_str(), H5F_ACC_RDWR, H5P_DEFAULT)));
}

Hdf5Properties with_groups() {
  Hdf5Properties links(checked(H5Pcreate(H5P_LINK_CREATE)));
  checked(H5Pset_create_intermediate_group(links.get(), 1));
  return links;
}

}  // namespace

void add_foreign_dataset(const std::string& file, const ForeignDataset& dataset) {
  const Hdf5Lock lock;
  const Hdf5File opened = make_or_open(file);
  const Hdf5Type native = make_hdf5_type(dataset.type);
  const Hdf5Type stored(checked(H5Tcopy(native.get())));
  if (dataset.is_big_endian) checked(H5Tset_order(stored.get(), H5T_ORDER_BE));
  const std::vector<hsize_t> extents(dataset.shape.begin(), dataset.shape.end());
  const std::vector<hsize_t> chunk(dataset.chunk.begin(), dataset.chunk.end());
  const Hdf5Space space(checked(H5Screate_simple(int(extents.size()), extents.data(), nullptr)));
  const Hdf5Properties creation(checked(H5Pcreate(H5P_DATASET_CREATE)));
  if (!chunk.empty()) checked(H5Pset_chunk(creation.get(), int(chunk.size()), chunk.data()));
  if (dataset.gzip_level > 0) checked(H5Pset_deflate(creation.get(), unsigned(dataset.gzip_level)));
  const Hdf5Properties links = with_groups();
  const Hdf5Dataset made(checked(H5Dcreate2(opened.get(), dataset.path.c_str(), stored.get(), space.get(), links.get(),
                                            creation.get(), H5P_DEFAULT)));
  std::vector<double> values(std::size_t(count_of(dataset.shape)));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = double(sample_value(std::int64_t(i)));
  for (const auto& [index, value] : dataset.except) values[std::size_t(index)] = value;
  checked(H5Dwrite(made.get(), H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()));
}

void add_non_floats(const std::string& file) {
  const Hdf5Lock lock;
  const Hdf5File opened = make_or_open(file);
  const hsize_t extents[4] = {1, 5, 2, 3};
  const Hdf5Space space(checked(H5Screate_simple(4, extents, nullptr)));
  const Hdf5Space scalar(checked(H5Screate(H5S_SCALAR)));
  const Hdf5Properties links = with_groups();
  const auto make = [&](const char* path, hid_t type, const Hdf5Space& shape) {
    Hdf5Dataset(checked(H5Dcreate2(opened.get(), path, type, shape.get(), links.get(), H5P_DEFAULT, H5P_DEFAULT)));
  };
  make("/layers/0/k", H5T_STD_I64LE, space);
  make("/layers/0/v", H5T_STD_U8LE, space);
  make("/layers/0/note", H5T_C_S1, scalar);
  make("/layers/0/log_decay", H5T_NATIVE_LDOUBLE, space);
}

void add_soft_link(const std::string& file, const std::string& target, const std::string& name) {
  const Hdf5Lock lock;
  const Hdf5File opened = make_or_open(file);
  const Hdf5Properties links = with_groups();
  checked(H5Lcreate_soft(target.c_str(), opened.get(), name.c_str(), links.get(), H5P_DEFAULT));
}

std::pair<std::int64_t, std::int64_t> find_data(const std::string& file, const std::string& dataset) {
  const Hdf5Lock lock;
  const Hdf5File opened(checked(H5Fopen(file.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT)));
  const Hdf5Dataset found(checked(H5Dopen2(opened.get(), dataset.c_str(), H5P_DEFAULT)));
  const haddr_t contiguous = H5Dget_offset(found.get());
  if (contiguous != HADDR_UNDEF) return {std::int64_t(contiguous), std::int64_t(H5Dget_storage_size(found.get()))};
  const Hdf5Space space(checked(H5Dget_space(found.get())));
  haddr_t offset = 0;
  hsize_t bytes = 0;
  checked(H5Dget_chunk_info(found.get(), space.get(), 0, nullptr, nullptr, &offset, &bytes));
  return {std::int64_t(offset), std::int64_t(bytes)};
}

void spoil(const std::string& file, std::int64_t offset, std::int64_t bytes) {
  std::fstream opened(file, std::ios::in | std::ios::out | std::ios::binary);
  opened.seekp(offset);
  opened << std::string(std::size_t(bytes), '\xff');
}

}  // namespace ringscan::test
