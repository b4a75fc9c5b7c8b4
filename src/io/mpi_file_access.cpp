#include "io/mpi_file_access.hpp"

#include <chrono>
#include <string>
#include <thread>

#include "core/error.hpp"
#include "io/hdf5_handles.hpp"

namespace ringscan {
namespace {

/// Ranks that share an error leave within moments of each other; a job with a lone error should still end soon.
constexpr std::chrono::seconds kUnwindPatience{5};

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw failure(std::string(call) + " failed: " + std::string(text, static_cast<std::size_t>(length)));
}

class MpiFileAccess final : public FileAccess {
 public:
  MpiFileAccess(MPI_Comm communicator, RankGroup& group) : FileAccess(group) {
    // Its own, so that nothing here can meet the messages of anybody else.
    check_mpi(MPI_Comm_dup(communicator, &communicator_), "MPI_Comm_dup");
    check_mpi(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }
  ~MpiFileAccess() override {
    if (!somebody_is_missing_) MPI_Comm_free(&communicator_);
  }

  bool is_parallel() const override { return true; }

  long long make_access_properties() const override {
    const Hdf5Lock lock;
    Hdf5Properties properties(checked(H5Pcreate(H5P_FILE_ACCESS)));
    checked(H5Pset_fapl_mpio(properties.get(), communicator_, MPI_INFO_NULL));
    // One rank reads the file's structure and tells the others; written once, too.
    checked(H5Pset_all_coll_metadata_ops(properties.get(), true));
    checked(H5Pset_coll_metadata_write(properties.get(), true));
    return properties.release();
  }

  bool all_ranks_unwind() override {
    if (somebody_is_missing_) return false;
    MPI_Request all_here = MPI_REQUEST_NULL;
    int is_done = 0;
    if (MPI_Ibarrier(communicator_, &all_here) != MPI_SUCCESS) return false;
    const auto deadline = std::chrono::steady_clock::now() + kUnwindPatience;
    while (MPI_Test(&all_here, &is_done, MPI_STATUS_IGNORE) == MPI_SUCCESS && is_done == 0) {
      if (std::chrono::steady_clock::now() > deadline) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    somebody_is_missing_ = is_done == 0;
    return !somebody_is_missing_;
  }

 private:
  MPI_Comm communicator_ = MPI_COMM_NULL;
  bool somebody_is_missing_ = false;
};

}  // namespace

std::unique_ptr<FileAccess> make_mpi_file_access(MPI_Comm communicator, RankGroup& group) {
  return std::make_unique<MpiFileAccess>(communicator, group);
}

}  // namespace ringscan
