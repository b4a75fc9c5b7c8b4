#include "apps/gnuplot.hpp"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "core/error.hpp"
#include "io/output_path.hpp"

namespace ringscan {

void require_gnuplot() {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (access((folder + "/gnuplot").c_str(), X_OK) == 0) return;
  }
  throw bad_input("--plot: no gnuplot is found in PATH, want it installed (Debian: gnuplot-nox), or no --plot");
}

void draw_with_gnuplot(const std::function<std::string(const std::string&)>& script_for, const std::string& path) {
  const std::string partial = partial_path(path);
  const std::string script = script_for(partial);
  std::FILE* pipe = popen("gnuplot 2>/dev/null", "w");
  if (pipe == nullptr) throw failure(path + ": gnuplot cannot be started");
  const bool is_written = std::fwrite(script.data(), 1, script.size(), pipe) == script.size();
  const int status = pclose(pipe);
  if (is_written && status == 0 && std::rename(partial.c_str(), path.c_str()) == 0) return;
  std::remove(partial.c_str());
  throw failure(path + ": gnuplot could not draw it");
}

}  // namespace ringscan
