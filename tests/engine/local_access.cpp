#include "tests/engine/access.hpp"

namespace ringscan::test {

std::unique_ptr<FileAccess> make_access(RankGroup& group) {
  return make_shared_file_access(group);
}

}  // namespace ringscan::test
