#pragma once
// Internal to src/io: an HDF5 file that all ranks have open.

#include <string>

#include "io/file_access.hpp"
#include "io/hdf5_handles.hpp"

namespace ringscan {

/// Closing an MPI-IO file waits for every rank. Where an exception that only this rank has unwinds the stack, nobody
/// else is coming: the file is then left open, and the job's end closes it.
class CollectiveFile {
 public:
  explicit CollectiveFile(FileAccess& access);
  ~CollectiveFile();
  CollectiveFile(const CollectiveFile&) = delete;
  CollectiveFile& operator=(const CollectiveFile&) = delete;

  /// Collective, both: an error on one rank is thrown on all.
  void open(const std::string& path);
  void create(const std::string& path, const std::string& target);
  /// To write into a file that is there.
  void reopen(const std::string& path, const std::string& target);
  /// Collective. Writes what HDF5 still holds; an error here is one of writing.
  void close(const std::string& target);

  hid_t get() const { return file_.get(); }
  bool is_open() const { return file_.is_open(); }

 private:
  FileAccess& access_;
  int exceptions_at_birth_;
  Hdf5File file_;
};

}  // namespace ringscan
