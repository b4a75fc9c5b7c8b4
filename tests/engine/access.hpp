#pragma once
// Files for the ranks of whatever world the test is linked with (threads or MPI).

#include <memory>

#include "io/file_access.hpp"

namespace ringscan::test {

std::unique_ptr<FileAccess> make_access(RankGroup& group);

}  // namespace ringscan::test
