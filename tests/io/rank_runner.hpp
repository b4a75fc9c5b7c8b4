#pragma once
// The same test bodies on ranks as threads and on ranks as processes; each test executable links one runner.

#include <functional>
#include <stdexcept>
#include <string>

#include "core/rank_group.hpp"
#include "io/file_access.hpp"

namespace ringscan::test {

/// What a test body has on its rank.
struct RankContext {
  RankGroup& group;
  FileAccess& access;
  std::string folder;  ///< an empty folder that all ranks share, gone afterwards

  int rank() const { return group.rank(); }
  int world_size() const { return group.world_size(); }
  std::string file(const std::string& name) const { return folder + "/" + name; }
  /// Rank 0 does `work` once the others wait, too: for files that come from elsewhere.
  void once(const std::function<void()>& work) const {
    group.barrier();
    run_collectively(group, [&] {
      if (group.rank() == 0) work();
    });
  }
};

/// Runs `body` on 1, 2, 3 and 4 threads, or on the processes of the job. @throws what a rank threw.
void on_ranks(const std::function<void(RankContext&)>& body);

/// Catch2's own checks may not be used in several threads.
inline void expect(bool condition, const std::string& what) {
  if (!condition) throw std::logic_error("not so: " + what);
}
inline void expect_equal(const std::string& found, const std::string& wanted) {
  if (found != wanted) throw std::logic_error("found: " + found + "\nwanted: " + wanted);
}

}  // namespace ringscan::test
