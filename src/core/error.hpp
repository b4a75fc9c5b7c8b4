#pragma once
// The one exception type, and the program's exit codes.

#include <stdexcept>
#include <string>

namespace ringscan {

/// What the process returns; scripts and batch systems act on it.
enum class ExitCode : int {
  kDone = 0,
  kVerificationFailed = 1,
  kBadInput = 2,  ///< usage or input, found before any output is left behind
  kFailure = 3,   ///< failure while running
  kStopped = 75,  ///< stopped on request, output resumable
};

/// A failure with a message a user can act on: one line, naming the file, the dataset or option, what was found and
/// what is wanted.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

  /// All ranks of the job throw this same error (see run_collectively): rank 0 alone reports it, nobody aborts.
  bool is_collective() const { return is_collective_; }
  void set_collective() { is_collective_ = true; }

 private:
  ExitCode code_;
  bool is_collective_ = false;
};

inline Error bad_input(const std::string& message) {
  return Error(ExitCode::kBadInput, message);
}
inline Error failure(const std::string& message) {
  return Error(ExitCode::kFailure, message);
}

}  // namespace ringscan
