#include "io/collective_file.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <exception>

namespace ringscan {

CollectiveFile::CollectiveFile(FileAccess& access)
    : access_(access), exceptions_at_birth_(std::uncaught_exceptions()) {}

CollectiveFile::~CollectiveFile() {
  if (!file_.is_open()) return;
  const bool is_unwinding = std::uncaught_exceptions() > exceptions_at_birth_;
  if (is_unwinding && !access_.all_ranks_unwind()) {
    file_.release();
    return;
  }
  const Hdf5Lock lock;
  file_.close();
}

void CollectiveFile::open(const std::string& path) {
  // A rank whose machine does not see the file must not learn so in the midst of a collective call.
  run_collectively(access_.group(), [&] {
    if (::access(path.c_str(), R_OK) == 0) return;
    throw bad_input(path + ": cannot be read on rank " + std::to_string(access_.group().rank()) + ": " +
                    std::strerror(errno));
  });
  run_collectively(access_.group(), [&] {
    const hid_t properties_id = access_.make_access_properties();
    const Hdf5Lock lock;
    const Hdf5Properties properties(properties_id);
    file_ = Hdf5File(checked(H5Fopen(path.c_str(), H5F_ACC_RDONLY, properties.get()),
                             {ExitCode::kBadInput, path, "truncated or damaged"}));
  });
}

void CollectiveFile::create(const std::string& path, const std::string& target) {
  const bool is_creator = access_.is_parallel() || access_.group().rank() == 0;
  const auto make = [&](bool is_new) {
    const hid_t properties_id = access_.make_access_properties();
    const Hdf5Lock lock;
    const Hdf5Properties properties(properties_id);
    const hid_t id = is_new ? H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, properties.get())
                            : H5Fopen(path.c_str(), H5F_ACC_RDWR, properties.get());
    file_ = Hdf5File(checked(id, {ExitCode::kFailure, target, "cannot be created"}));
  };
  run_collectively(access_.group(), [&] {
    if (is_creator) make(true);
  });
  run_collectively(access_.group(), [&] {
    if (!is_creator) make(false);  // the same file of the same process: HDF5 lets both handles see one state
  });
}

void CollectiveFile::reopen(const std::string& path, const std::string& target) {
  run_collectively(access_.group(), [&] {
    const hid_t properties_id = access_.make_access_properties();
    const Hdf5Lock lock;
    const Hdf5Properties properties(properties_id);
    file_ = Hdf5File(checked(H5Fopen(path.c_str(), H5F_ACC_RDWR, properties.get()),
                             {ExitCode::kBadInput, target, "its partial output is damaged; run without --resume"}));
  });
}

void CollectiveFile::close(const std::string& target) {
  run_collectively(access_.group(), [&] {
    const Hdf5Lock lock;
    checked(file_.close(), {ExitCode::kFailure, target, "cannot be written"});
  });
}

}  // namespace ringscan
