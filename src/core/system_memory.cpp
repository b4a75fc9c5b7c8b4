#include "core/system_memory.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace ringscan {
namespace {

/// The figure of a "Name:  123 kB" line, in bytes; 0 where there is none.
std::size_t proc_figure(const char* file, const std::string& name) {
  std::ifstream lines(file);
  std::string word;
  while (lines >> word) {
    if (word == name + ":") {
      std::size_t kibibytes = 0;
      lines >> kibibytes;
      return kibibytes * 1024;
    }
    lines.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return 0;
}

/// A control group's file holds a number, or "max".
std::size_t cgroup_figure(const char* file) {
  std::ifstream in(file);
  std::size_t bytes = 0;
  return in >> bytes ? bytes : std::numeric_limits<std::size_t>::max();
}

}  // namespace

std::size_t available_memory_bytes() {
  const std::size_t machine = proc_figure("/proc/meminfo", "MemAvailable");
  const std::size_t limit = cgroup_figure("/sys/fs/cgroup/memory.max");
  if (limit == std::numeric_limits<std::size_t>::max()) return machine;
  const std::size_t used = cgroup_figure("/sys/fs/cgroup/memory.current");
  return std::min(machine, used < limit ? limit - used : 0);
}

std::size_t peak_resident_bytes() {
  return proc_figure("/proc/self/status", "VmHWM");
}

}  // namespace ringscan
