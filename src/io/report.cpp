#include "io/report.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "core/error.hpp"
#include "io/output_path.hpp"

namespace ringscan {

void check_report_path(RankGroup& group, const std::string& path) {
  if (path.empty()) return;
  run_collectively(group, [&] {
    if (group.rank() == 0) probe_partial_file(path, true);
  });
}

void write_json_file(RankGroup& group, const std::string& path, const std::string& json_text) {
  run_collectively(group, [&] {
    if (group.rank() != 0) return;
    const std::string partial = partial_path(path);
    std::ofstream out(partial, std::ios::binary | std::ios::trunc);
    out << json_text << '\n';
    out.close();
    if (out && std::rename(partial.c_str(), path.c_str()) == 0) return;
    const std::string reason = std::strerror(errno);
    std::remove(partial.c_str());
    throw failure(path + ": cannot be written: " + reason);
  });
}

}  // namespace ringscan
