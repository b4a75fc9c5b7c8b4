#include "apps/option_set.hpp"

#include <algorithm>
#include <boost/program_options.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <utility>

namespace ringscan {

namespace po = boost::program_options;

namespace {

constexpr const char* kConfig = "config";
constexpr int kStyle = po::command_line_style::allow_long | po::command_line_style::long_allow_adjacent |
                       po::command_line_style::long_allow_next;

po::options_description boost_description(const std::vector<OptionInfo>& options) {
  po::options_description description("options", 118, 70);
  for (const OptionInfo& option : options) {
    auto* value = po::value<std::string>()->value_name(option.is_switch ? "[" + option.value + "]" : option.value);
    description.add_options()(option.name.c_str(), value, option.help.c_str());
  }
  return description;
}

std::string read_text(const std::string& path) {
  errno = 0;
  std::ifstream file(path);
  const bool is_folder = std::filesystem::is_directory(path);
  if (!file || is_folder) {
    throw bad_input("--config: cannot read " + path + ": " + std::strerror(is_folder ? EISDIR : errno));
  }
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// A bare switch is on, and takes the next word only where that is a switch's value: so `--overwrite FILE` and
/// `--causal off` both say what they seem to.
std::vector<std::string> with_switch_values(const std::vector<std::string>& arguments,
                                            const std::vector<OptionInfo>& options) {
  const auto is_switch = [&](const std::string& argument) {
    return std::any_of(options.begin(), options.end(),
                       [&](const OptionInfo& option) { return option.is_switch && argument == "--" + option.name; });
  };
  std::vector<std::string> result;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    result.push_back(arguments[i]);
    if (!is_switch(arguments[i])) continue;
    if (i + 1 < arguments.size() && switch_value(arguments[i + 1])) {
      result.back().append("=").append(arguments[++i]);
    } else {
      result.back().append("=on");
    }
  }
  return result;
}

po::parsed_options as_parsed(const std::vector<Setting>& settings, const po::options_description& description) {
  po::parsed_options parsed(&description);
  for (const Setting& setting : settings) {
    parsed.options.emplace_back(setting.name, std::vector<std::string>{setting.value});
  }
  return parsed;
}

/// Where each option was given; the first one counts, as it does for po::store.
using Places = std::map<std::string, std::string>;

}  // namespace

OptionSet::OptionSet(std::string command, std::vector<OptionInfo> options, std::string positional)
    : command_(std::move(command)), options_(std::move(options)), positional_(std::move(positional)) {
  options_.push_back({kConfig, "FILE", "more options, as name = value lines; [section] stands for section."});
}

std::string OptionSet::description() const {
  std::ostringstream text;
  text << boost_description(options_);
  return text.str();
}

std::vector<Setting> OptionSet::parse(const std::vector<std::string>& arguments) const {
  const po::options_description description = boost_description(options_);
  po::variables_map values;
  Places places;
  try {
    po::parsed_options given = po::command_line_parser(with_switch_values(arguments, options_))
                                   .options(description)
                                   .style(kStyle)
                                   .allow_unregistered()
                                   .run();
    for (auto& option : given.options) {
      if (option.unregistered) {
        const std::string name = option.string_key;
        throw unknown_setting({name, "", "ringscan " + command_ + ": --" + name}, options_);
      }
      if (option.string_key.empty()) {  // a bare argument
        if (positional_.empty() || places.count(positional_) != 0) {
          throw bad_input("ringscan " + command_ + ": unexpected argument '" + option.value.at(0) + "'");
        }
        option.string_key = positional_;
        option.position_key = -1;
      }
      places.emplace(option.string_key, "--" + option.string_key);
    }
    po::store(given, values);

    if (values.count(kConfig) != 0) {
      const std::string path = values[kConfig].as<std::string>();
      const std::vector<Setting> from_file = parse_settings(read_text(path), path);
      for (const Setting& setting : from_file) {
        const bool is_known = std::any_of(options_.begin(), options_.end(),
                                          [&](const OptionInfo& option) { return option.name == setting.name; });
        if (!is_known || setting.name == kConfig) throw unknown_setting(setting, options_);
        places.emplace(setting.name, setting.where);
      }
      po::store(as_parsed(from_file, description), values);
    }
  } catch (const po::error& error) {
    throw bad_input("ringscan " + command_ + ": " + error.what());
  }

  std::vector<Setting> settings;
  for (const auto& [name, value] : values) {
    if (name != kConfig) settings.push_back({name, value.as<std::string>(), places.at(name)});
  }
  return settings;
}

}  // namespace ringscan
