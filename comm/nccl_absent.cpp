// Stands for the NCCL transport in a build without it.

#include "comm/nccl_transport.hpp"
#include "core/error.hpp"

namespace ringscan {

bool has_nccl() {
  return false;
}

std::unique_ptr<NcclTransport> make_nccl_transport(Transport&, const NcclOptions&) {
  throw bad_input("this build has no NCCL: GPUs pass keys on through host memory");
}

}  // namespace ringscan
