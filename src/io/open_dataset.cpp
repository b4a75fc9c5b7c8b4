#include "io/open_dataset.hpp"

#include <algorithm>
#include <cstddef>
#include <exception>

#include "core/stopwatch.hpp"
namespace ringscan {

OpenDataset::OpenDataset(FileAccess& access, hid_t file, const std::string& path, std::int64_t max_elements,
                         const Hdf5Blame& blame)
    : is_parallel_(access.is_parallel()),
      dataset_(checked(H5Dopen2(file, path.c_str(), H5P_DEFAULT), blame)),  // the one collective call comes first
      type_(checked(H5Dget_type(dataset_.get()), blame)),
      file_space_(checked(H5Dget_space(dataset_.get()), blame)),
      transfer_properties_(checked(H5Pcreate(H5P_DATASET_XFER))) {
  const hsize_t extent = static_cast<hsize_t>(std::max<std::int64_t>(1, max_elements));
  memory_space_ = Hdf5Space(checked(H5Screate_simple(1, &extent, nullptr)));
  if (!is_parallel_) return;
  checked(H5Pset_dxpl_mpio(transfer_properties_.get(), H5FD_MPIO_COLLECTIVE));
  // All chunks in one collective transfer; left to itself HDF5 may go chunk by chunk, and independently.
  checked(H5Pset_dxpl_mpio_chunk_opt(transfer_properties_.get(), H5FD_MPIO_CHUNK_ONE_IO));
}

OpenDataset::~OpenDataset() {
  const Hdf5Lock lock;
  transfer_properties_.close();
  memory_space_.close();
  file_space_.close();
  type_.close();
  dataset_.close();
}

void OpenDataset::transfer(Direction direction, void* memory, std::int64_t elements,
                           const std::function<void(hid_t)>& select, const Hdf5Blame& blame, TransferRecord& record) {
  const AddSeconds adder(record.seconds, direction == Direction::kRead ? SpanKind::kRead : SpanKind::kWrite);
  const Hdf5Lock lock;
  std::exception_ptr selection_error;
  try {
    if (elements > 0) {
      const hsize_t first = 0, count = static_cast<hsize_t>(elements);
      checked(H5Sselect_hyperslab(memory_space_.get(), H5S_SELECT_SET, &first, nullptr, &count, nullptr));
      select(file_space_.get());
    }
  } catch (...) {
    selection_error = std::current_exception();  // the others are in the transfer already: join them with nothing
  }
  const bool takes_part = elements > 0 && !selection_error;
  if (!takes_part) {
    H5Sselect_none(memory_space_.get());
    H5Sselect_none(file_space_.get());
  }
  // HDF5 wants an address even for nothing.
  std::byte nothing{};
  void* address = takes_part ? memory : &nothing;
  const herr_t status = direction == Direction::kRead
                            ? H5Dread(dataset_.get(), type_.get(), memory_space_.get(), file_space_.get(),
                                      transfer_properties_.get(), address)
                            : H5Dwrite(dataset_.get(), type_.get(), memory_space_.get(), file_space_.get(),
                                       transfer_properties_.get(), address);
  if (selection_error) std::rethrow_exception(selection_error);
  checked(status, blame);
  record.bytes += static_cast<std::size_t>(elements) * H5Tget_size(type_.get());
  record.transfers += 1;
  note_mode(record);
}

void OpenDataset::note_mode(TransferRecord& record) const {
  if (!is_parallel_) return;
  H5D_mpio_actual_io_mode_t mode = H5D_MPIO_NO_COLLECTIVE;
  std::uint32_t cause_local = 0, cause_global = 0;
  checked(H5Pget_mpio_actual_io_mode(transfer_properties_.get(), &mode));
  checked(H5Pget_mpio_no_collective_cause(transfer_properties_.get(), &cause_local, &cause_global));
  const bool was_collective = (mode == H5D_MPIO_CONTIGUOUS_COLLECTIVE || mode == H5D_MPIO_CHUNK_COLLECTIVE) &&
                              cause_global == H5D_MPIO_COLLECTIVE;
  if (!was_collective) record.not_collective += 1;
}

void run_transfers(RankGroup& group, std::int64_t transfers, const std::function<void(std::size_t)>& transfer) {
  run_collectively(group, [&] {
    std::exception_ptr first_error;
    for (std::int64_t i = 0; i < transfers; ++i) {
      try {
        transfer(static_cast<std::size_t>(i));
      } catch (...) {
        if (!first_error) first_error = std::current_exception();
      }
    }
    if (first_error) std::rethrow_exception(first_error);
  });
}

}  // namespace ringscan
