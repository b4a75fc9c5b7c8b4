#include <algorithm>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "apps/commands.hpp"
#include "core/units.hpp"
#include "io/activation_file.hpp"

namespace ringscan {

namespace {

constexpr std::string_view kLayers = "/layers/";

/// "/layers/0/ssm/u" -> {"0", "ssm/u"}; "/q" -> {"", "q"}.
std::pair<std::string, std::string> split_path(const std::string& path) {
  if (!path.starts_with(kLayers)) return {"", path.substr(path.find_first_not_of('/'))};
  const std::size_t slash = path.find('/', kLayers.size());
  if (slash == std::string::npos) return {"", path.substr(1)};
  return {path.substr(kLayers.size(), slash - kLayers.size()), path.substr(slash + 1)};
}

/// Bytes of the elements; 0 where they are of none of our types.
std::size_t payload_bytes(const DatasetInfo& dataset) {
  if (!dataset.is_activation) return 0;
  std::size_t bytes = size_of(dataset.type);
  for (const std::int64_t extent : dataset.shape) bytes *= static_cast<std::size_t>(extent);
  return bytes;
}

std::string type_text(const DatasetInfo& dataset) {
  return dataset.found_type.empty() ? std::string(name_of(dataset.type)) : dataset.found_type;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (const std::int64_t extent : shape) {
    if (text.size() > 1) text.append(", ");
    text.append(std::to_string(extent));
  }
  return text + "]";
}

enum class Completeness { kComplete, kIncomplete, kNotMarked };

/// What ringscan writes says `complete = 1`, last; a file made elsewhere says nothing.
Completeness completeness(const std::map<std::string, std::string>& attributes) {
  if (const auto complete = attributes.find("complete"); complete != attributes.end()) {
    return complete->second == "1" ? Completeness::kComplete : Completeness::kIncomplete;
  }
  return attributes.contains("program") ? Completeness::kIncomplete : Completeness::kNotMarked;
}

/// Columns as wide as their widest cell, two spaces apart; numbers' column (the last) to the right.
void print_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - row[i].size(), ' ');
      line += "  ";
      line += i + 1 == row.size() ? padding + row[i] : row[i] + padding;
    }
    std::cout << line << "\n";
  }
}

void print_attributes(const std::map<std::string, std::string>& attributes) {
  std::size_t width = 0;
  for (const auto& [name, value] : attributes) width = std::max(width, name.size());
  std::cout << "\nattributes\n";
  for (const auto& [name, value] : attributes) {
    const std::string indent = "\n  " + std::string(width + 2, ' ');
    std::string text = value;
    while (text.ends_with('\n')) text.pop_back();
    for (std::size_t at = text.find('\n'); at != std::string::npos; at = text.find('\n', at + indent.size())) {
      text.replace(at, 1, indent);
    }
    std::cout << "  " << name << std::string(width + 2 - name.size(), ' ') << text << "\n";
  }
}

void print_text(const ActivationReader& reader, const std::vector<DatasetInfo>& datasets) {
  std::size_t total = 0;
  std::string last_layer;
  std::size_t layers = 0;
  std::vector<std::vector<std::string>> rows = {{"layer", "dataset", "type", "storage", "shape", "size"}};
  for (const DatasetInfo& dataset : datasets) {
    const auto [layer, name] = split_path(dataset.path);
    if (rows.size() == 1 || layer != last_layer) ++layers;
    rows.push_back({layer.empty() ? "(root)" : layer, name, type_text(dataset),
                    dataset.is_chunked ? "chunked" : "contiguous", shape_text(dataset.shape),
                    dataset.is_activation ? human_bytes(payload_bytes(dataset)) : "-"});
    total += payload_bytes(dataset);
    last_layer = layer;
  }
  const auto attributes = reader.attributes();
  constexpr const char* kMarks[] = {"complete", "incomplete", "not marked complete (not written by ringscan)"};
  std::cout << reader.path() << ": " << layers << (layers == 1 ? " layer, " : " layers, ") << human_bytes(total) << ", "
            << kMarks[static_cast<int>(completeness(attributes))] << "\n\n";
  print_table(rows);
  if (!attributes.empty()) print_attributes(attributes);
}

void print_json(const ActivationReader& reader, const std::vector<DatasetInfo>& datasets) {
  nlohmann::ordered_json root;
  root["file"] = reader.path();
  const auto attributes = reader.attributes();
  const Completeness mark = completeness(attributes);
  if (mark == Completeness::kNotMarked) {
    root["complete"] = nullptr;
  } else {
    root["complete"] = mark == Completeness::kComplete;
  }
  root["attributes"] = attributes;
  root["datasets"] = nlohmann::ordered_json::array();
  for (const DatasetInfo& dataset : datasets) {
    const auto [layer, name] = split_path(dataset.path);
    nlohmann::ordered_json entry;
    entry["layer"] = layer;
    entry["dataset"] = name;
    entry["path"] = dataset.path;
    entry["type"] = type_text(dataset);
    entry["shape"] = dataset.shape;
    entry["chunked"] = dataset.is_chunked;
    if (dataset.is_activation) entry["bytes"] = payload_bytes(dataset);
    root["datasets"].push_back(std::move(entry));
  }
  // A name from a file may be no UTF-8; what is not is replaced.
  std::cout << root.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
}

}  // namespace

int inspect_command(Job& job, const InspectOptions& options) {
  const ActivationReader reader(job.access, options.file);
  if (job.is_root()) {
    if (options.as_json) {
      print_json(reader, reader.datasets());
    } else {
      print_text(reader, reader.datasets());
    }
  }
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace ringscan
