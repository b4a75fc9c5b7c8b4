#pragma once
// Internal to src/io: the names and places of files that are written, and their last step.

#include <string>

namespace ringscan {

/// Where an output stands until it is complete.
std::string partial_path(const std::string& target);

/// Rank 0. @throws Error(kBadInput): the target exists and may not be replaced.
void check_target(const std::string& target, bool overwrite);

/// Rank 0: makes (or empties) the partial file, which no longer is one to resume. @throws Error(kBadInput): the target
/// exists and may not be replaced, its folder is missing or cannot be written.
void make_partial_file(const std::string& target, bool overwrite);

/// Rank 0: says what make_partial_file() would, and leaves nothing behind.
void probe_partial_file(const std::string& target, bool overwrite);

/// The ranks but 0: the folder is there on their machine, too. @throws Error(kBadInput).
void check_output_folder(const std::string& target);

/// Rank 0: forces the partial file to disk and gives it its name. @throws Error(kFailure), or kBadInput where the
/// target has come to exist meanwhile.
void move_to_target(const std::string& target, bool overwrite);

}  // namespace ringscan
