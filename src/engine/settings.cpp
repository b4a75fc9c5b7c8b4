#include "engine/settings.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <numeric>
#include <sstream>

namespace ringscan {

namespace {

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpaces = " \t\r\n";
  const auto first = text.find_first_not_of(kSpaces);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpaces) - first + 1);
}

/// The line up to a comment: a '#' inside quotes or inside a word (a file name) is none.
std::string_view without_comment(std::string_view line) {
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (quoted && line[i] == '\\') {
      ++i;
    } else if (line[i] == '"') {
      quoted = !quoted;
    } else if (line[i] == '#' && !quoted && (i == 0 || line[i - 1] == ' ' || line[i - 1] == '\t')) {
      return line.substr(0, i);
    }
  }
  return line;
}

/// @throws Error where the closing quote is missing or not the last character.
std::string unquoted(std::string_view value, const std::string& place) {
  if (value.empty() || value.front() != '"') return std::string(value);
  std::string plain;
  for (std::size_t i = 1; i < value.size(); ++i) {
    if (value[i] == '"') {
      if (i + 1 == value.size()) return plain;
      break;
    }
    if (value[i] == '\\' && i + 1 < value.size()) {
      ++i;
      plain += value[i] == 'n' ? '\n' : value[i];
    } else {
      plain += value[i];
    }
  }
  throw bad_input(place + "found " + std::string(value) + ", want a closing quote at the end of the line");
}

}  // namespace

std::vector<Setting> parse_settings(const std::string& text, const std::string& source) {
  std::vector<Setting> settings;
  std::map<std::string, int> first_line;
  std::istringstream lines(text);
  std::string whole_line;
  std::string section;
  for (int number = 1; std::getline(lines, whole_line); ++number) {
    const std::string place = source + ":" + std::to_string(number) + ": ";
    const std::string_view line = trimmed(without_comment(whole_line));
    if (line.empty()) continue;
    if (line.front() == '[') {
      const std::string_view inner = line.back() == ']' ? trimmed(line.substr(1, line.size() - 2)) : "";
      if (inner.empty()) throw bad_input(place + "found '" + std::string(line) + "', want [section]");
      section = std::string(inner) + ".";
      continue;
    }
    const auto equals = line.find('=');
    const std::string_view own_name = trimmed(line.substr(0, equals));
    if (equals == std::string_view::npos || own_name.empty()) {
      throw bad_input(place + "found '" + std::string(line) + "', want name = value");
    }
    const std::string name = section + std::string(own_name);
    const auto [earlier, is_new] = first_line.emplace(name, number);
    if (!is_new) {
      throw bad_input(place + name + " is given twice, first in line " + std::to_string(earlier->second));
    }
    settings.push_back({name, unquoted(trimmed(line.substr(equals + 1)), place), place + name});
  }
  return settings;
}

std::string setting_line(std::string_view name, std::string_view value) {
  const bool plain = value.find_first_of("#\"\n\r\\") == std::string_view::npos && trimmed(value) == value;
  std::string line(name);
  line += " = ";
  if (plain) {
    line += value;
  } else {
    line += '"';
    for (const char c : value) {
      if (c == '"' || c == '\\') line += '\\';
      if (c == '\n') {
        line += "\\n";
      } else {
        line += c;
      }
    }
    line += '"';
  }
  return line + "\n";
}

namespace {

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

std::string nearest_name(std::string_view name, std::span<const std::string> known) {
  std::string nearest;
  std::size_t least = std::max<std::size_t>(2, name.size() / 3) + 1;  // further away, a suggestion only misleads
  for (const std::string& candidate : known) {
    const std::size_t distance = edit_distance(name, candidate);
    if (distance < least && distance < candidate.size()) {
      least = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

Error unknown_setting(const Setting& setting, std::span<const OptionInfo> known) {
  std::vector<std::string> names;
  for (const OptionInfo& option : known) names.push_back(option.name);
  const std::string nearest = nearest_name(setting.name, names);
  return bad_input(setting.where + ": unknown option" + (nearest.empty() ? "" : ", did you mean " + nearest + "?"));
}

Error wrong_value(const Setting& setting, std::string_view wanted) {
  return bad_input(setting.where + ": found '" + setting.value + "', want " + std::string(wanted));
}

std::optional<bool> switch_value(std::string_view word) {
  for (const char* on : {"on", "true", "yes", "1"}) {
    if (word == on) return true;
  }
  for (const char* off : {"off", "false", "no", "0"}) {
    if (word == off) return false;
  }
  return std::nullopt;
}

bool parse_switch(const Setting& setting) {
  const std::optional<bool> value = switch_value(setting.value);
  if (!value) throw wrong_value(setting, "on or off");
  return *value;
}

double parse_number(const Setting& setting, std::string_view wanted) {
  double number = 0.0;
  const char* end = setting.value.data() + setting.value.size();
  const auto [stop, problem] = std::from_chars(setting.value.data(), end, number);
  if (problem != std::errc() || stop != end || !std::isfinite(number)) throw wrong_value(setting, wanted);
  return number;
}

std::int64_t parse_whole_number(const Setting& setting, std::int64_t least, std::int64_t most,
                                std::string_view wanted) {
  std::int64_t number = 0;
  const char* end = setting.value.data() + setting.value.size();
  const auto [stop, problem] = std::from_chars(setting.value.data(), end, number);
  if (problem != std::errc() || stop != end || number < least || number > most) throw wrong_value(setting, wanted);
  return number;
}

std::vector<std::string> split_list(const Setting& setting, std::string_view wanted) {
  std::vector<std::string> items;
  std::size_t begin = 0;
  while (begin <= setting.value.size()) {
    const std::size_t end = std::min(setting.value.find(',', begin), setting.value.size());
    const std::string_view item = trimmed(std::string_view(setting.value).substr(begin, end - begin));
    if (item.empty()) throw wrong_value(setting, wanted);
    items.emplace_back(item);
    begin = end + 1;
  }
  return items;
}

}  // namespace ringscan
