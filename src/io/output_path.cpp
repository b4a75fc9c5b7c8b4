#include "io/output_path.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/error.hpp"
#include "io/progress_file.hpp"

namespace ringscan {

void check_target(const std::string& target, bool overwrite) {
  if (target.empty()) throw bad_input("the output's file name is empty");
  struct stat info {};
  if (stat(target.c_str(), &info) != 0) return;
  if (S_ISDIR(info.st_mode)) throw bad_input(target + ": is a folder, the name of a file is wanted");
  if (!overwrite) throw bad_input(target + ": exists already (--overwrite replaces it)");
}

namespace {

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

int open_partial(const std::string& target, int flags) {
  const int file = open(partial_path(target).c_str(), flags | O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0 && errno != EEXIST) {
    throw bad_input(target + ": cannot be created in folder " + folder_of(target) + ": " + std::strerror(errno));
  }
  return file;
}

/// Best effort: some file systems cannot, and the data's way to disk is theirs then.
void sync_to_disk(const std::string& path, int flags) {
  const int file = open(path.c_str(), flags | O_CLOEXEC);
  if (file < 0) return;
  fsync(file);
  close(file);
}

}  // namespace

std::string partial_path(const std::string& target) {
  return target + ".ringscan-partial";
}

void make_partial_file(const std::string& target, bool overwrite) {
  check_target(target, overwrite);
  remove_progress(target);
  close(open_partial(target, O_TRUNC));
}

void probe_partial_file(const std::string& target, bool overwrite) {
  check_target(target, overwrite);
  const int made = open_partial(target, O_EXCL);
  if (made >= 0) {
    close(made);
    unlink(partial_path(target).c_str());
    return;
  }
  close(open_partial(target, 0));  // left by a job that was killed; the writer takes it over
}

void check_output_folder(const std::string& target) {
  struct stat info {};
  const std::string folder = folder_of(target);
  if (stat(folder.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return;
  throw bad_input(target + ": there is no folder " + folder + " on every machine of the job");
}

void move_to_target(const std::string& target, bool overwrite) {
  check_target(target, overwrite);
  sync_to_disk(partial_path(target), O_RDONLY);
  if (std::rename(partial_path(target).c_str(), target.c_str()) != 0) {
    throw failure(target + ": the complete output cannot be given its name: " + std::strerror(errno));
  }
  sync_to_disk(folder_of(target), O_RDONLY | O_DIRECTORY);
}

}  // namespace ringscan
