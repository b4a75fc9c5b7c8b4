#pragma once
// The options of one command, parsed with Boost.Program_options: from the command line first, then from the file that
// --config names.

#include <optional>
#include <string>
#include <vector>

#include "engine/settings.hpp"

namespace ringscan {

class OptionSet {
 public:
  /// `positional` is the option that a bare argument stands for; empty: none is taken.
  OptionSet(std::string command, std::vector<OptionInfo> options, std::string positional = "");

  /// What was given, each name once: the command line wins over the file. Names are not abbreviated.
  /// @throws Error(kBadInput): an unknown name, one given twice, a value missing, a file that cannot be read.
  std::vector<Setting> parse(const std::vector<std::string>& arguments) const;

  /// The options as help shows them.
  std::string description() const;

 private:
  std::string command_;
  std::vector<OptionInfo> options_;
  std::string positional_;
};

}  // namespace ringscan
