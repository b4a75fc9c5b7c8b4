#include "io/file_access.hpp"

#include "io/hdf5_handles.hpp"

namespace ringscan {
namespace {

class SharedFileAccess final : public FileAccess {
 public:
  using FileAccess::FileAccess;
  bool is_parallel() const override { return false; }
  long long make_access_properties() const override {
    const Hdf5Lock lock;
    Hdf5Properties properties(checked(H5Pcreate(H5P_FILE_ACCESS)));
    checked(H5Pset_fapl_sec2(properties.get()));
    return properties.release();
  }
};

}  // namespace

std::unique_ptr<FileAccess> make_shared_file_access(RankGroup& group) {
  return std::make_unique<SharedFileAccess>(group);
}

}  // namespace ringscan
