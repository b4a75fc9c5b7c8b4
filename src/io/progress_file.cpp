#include "io/progress_file.hpp"

#include <unistd.h>

#include <fstream>
#include <sstream>

#include "core/error.hpp"
#include "io/output_path.hpp"
#include "io/report.hpp"

namespace ringscan {
namespace {

std::string progress_path(const std::string& target) {
  return target + ".ringscan-progress";
}

}  // namespace

std::optional<std::string> read_progress(RankGroup& group, const std::string& target) {
  std::string text;
  run_collectively(group, [&] {
    if (group.rank() != 0) return;
    const std::string path = progress_path(target);
    if (access(partial_path(target).c_str(), F_OK) != 0 || access(path.c_str(), F_OK) != 0) return;
    std::ifstream in(path, std::ios::binary);
    std::ostringstream all;
    all << in.rdbuf();
    text = all.str();
    if (!in || text.empty()) throw bad_input(path + ": cannot be read");
  });
  group.broadcast(text, 0);
  if (text.empty()) return std::nullopt;
  return text;
}

void write_progress(RankGroup& group, const std::string& target, const std::string& json_text) {
  write_json_file(group, progress_path(target), json_text);
}

void remove_progress(const std::string& target) {
  unlink(progress_path(target).c_str());
}

}  // namespace ringscan
