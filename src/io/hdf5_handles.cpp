#include "io/hdf5_handles.hpp"

#include <cctype>

namespace ringscan {
namespace {

std::mutex& library_mutex() {
  static std::mutex mutex;
  return mutex;
}

herr_t keep_first(unsigned position, const H5E_error2_t* entry, void* text) {
  if (position == 0 && entry->desc != nullptr) *static_cast<std::string*>(text) = entry->desc;
  return 0;
}

/// The innermost entry of HDF5's error stack says what went wrong; those above say who called whom.
std::string innermost_error_text() {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &text);
  for (char& c : text) {
    if (std::iscntrl(static_cast<unsigned char>(c)) != 0) c = ' ';  // some hold the date, with its line end
  }
  return text.empty() ? "no reason given" : text;
}

}  // namespace

Hdf5Lock::Hdf5Lock() : lock_(library_mutex()) {
  H5Eget_auto2(H5E_DEFAULT, &print_, &print_data_);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

Hdf5Lock::~Hdf5Lock() {
  H5Eset_auto2(H5E_DEFAULT, print_, print_data_);
}

void throw_hdf5_error(const Hdf5Blame& blame, const std::source_location& where) {
  std::string message = std::string(blame.subject) + ": " + std::string(blame.problem);
  message += " (HDF5: " + innermost_error_text();
  if (blame.code != ExitCode::kBadInput) {
    const std::string_view file = where.file_name();
    message += "; at " + std::string(file.substr(file.find_last_of('/') + 1)) + ":" + std::to_string(where.line());
  }
  throw Error(blame.code, message + ")");
}

}  // namespace ringscan
