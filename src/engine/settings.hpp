#pragma once
// Named values as a user gives them (on the command line or as `name = value` lines) and their parsing, with messages
// that say where the value was given.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.hpp"

namespace ringscan {

struct Setting {
  std::string name;   ///< "softmax.window"
  std::string value;  ///< as given, without quotes
  std::string where;  ///< begins a message about it: "--softmax.window" or "job.ini:7: softmax.window"
};

/// An option as help and messages show it.
struct OptionInfo {
  std::string name;
  std::string value;  ///< what stands for the value in help: "FILE"
  std::string help;
  bool is_switch = false;  ///< on where named without a value
};

/// Reads `name = value` lines: `#` begins a comment at the start of a line or after a space; a name under `[section]`
/// is `section.name`; a value that holds `#`, quotes or outer spaces stands in double quotes with \\, \" and \n.
/// `source` names the text in messages. @throws Error(kBadInput) on a line of another form or a name given twice.
std::vector<Setting> parse_settings(const std::string& text, const std::string& source);

/// A `name = value` line that parse_settings() reads back, quoted where it has to be; ends in a newline.
std::string setting_line(std::string_view name, std::string_view value);

/// The known name with the smallest edit distance; empty where none is near.
std::string nearest_name(std::string_view name, std::span<const std::string> known);

/// "WHERE: unknown option, did you mean NEAREST?"
Error unknown_setting(const Setting& setting, std::span<const OptionInfo> known);

/// "WHERE: found 'VALUE', want WANTED".
Error wrong_value(const Setting& setting, std::string_view wanted);

/// on, true, yes, 1 and off, false, no, 0; nothing for another word.
std::optional<bool> switch_value(std::string_view word);

/// A switch_value(). @throws Error(kBadInput), as all of these.
bool parse_switch(const Setting& setting);
/// A finite number.
double parse_number(const Setting& setting, std::string_view wanted);
/// A whole number from `least` to `most`.
std::int64_t parse_whole_number(const Setting& setting, std::int64_t least, std::int64_t most, std::string_view wanted);
/// "a,b, c" -> {"a", "b", "c"}; an empty item is an error.
std::vector<std::string> split_list(const Setting& setting, std::string_view wanted);

}  // namespace ringscan
