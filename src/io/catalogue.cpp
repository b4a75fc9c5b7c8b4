#include "io/catalogue.hpp"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

namespace ringscan {
namespace {

constexpr std::string_view kLayersFolder = "/layers/";

bool is_digit(char c) {
  return std::isdigit(static_cast<unsigned char>(c)) != 0;
}

/// The digits from `at` on without leading zeros; `at` moves behind them.
std::string take_number(const std::string& text, std::size_t& at) {
  while (at < text.size() && text[at] == '0') ++at;
  const std::size_t begin = at;
  while (at < text.size() && is_digit(text[at])) ++at;
  return text.substr(begin, at - begin);
}

}  // namespace

bool natural_less(const std::string& a, const std::string& b) {
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (is_digit(a[i]) && is_digit(b[j])) {
      const std::string x = take_number(a, i), y = take_number(b, j);
      if (x.size() != y.size()) return x.size() < y.size();
      if (x != y) return x < y;
    } else {
      if (a[i] != b[j]) return a[i] < b[j];
      ++i;
      ++j;
    }
  }
  const std::size_t left_a = a.size() - i, left_b = b.size() - j;
  return left_a != left_b ? left_a < left_b : a < b;
}

std::string dataset_path(const std::string& layer, const std::string& dataset) {
  return layer.empty() ? "/" + dataset : std::string(kLayersFolder) + layer + "/" + dataset;
}

const CatalogueEntry* Catalogue::find(const std::string& path) const {
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const CatalogueEntry& entry) { return entry.info.path == path; });
  return found == entries.end() ? nullptr : &*found;
}

std::vector<std::string> Catalogue::layers() const {
  std::vector<std::string> names;
  for (const CatalogueEntry& entry : entries) {
    const std::string& path = entry.info.path;
    if (!path.starts_with(kLayersFolder)) continue;
    const std::size_t end = path.find('/', kLayersFolder.size());
    if (end != std::string::npos) names.push_back(path.substr(kLayersFolder.size(), end - kLayersFolder.size()));
  }
  if (names.empty() && !entries.empty()) return {""};
  std::sort(names.begin(), names.end(), natural_less);
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

std::string Catalogue::packed() const {
  nlohmann::json datasets = nlohmann::json::array();
  for (const auto& [info, is_byte_swapped] : entries) {
    datasets.push_back({info.path, static_cast<int>(info.type), info.shape, info.is_chunked, info.is_activation,
                        info.found_type, is_byte_swapped});
  }
  std::string bytes;
  // MessagePack: unlike JSON's text it takes names that are not UTF-8.
  nlohmann::json::to_msgpack({{"datasets", datasets}, {"attributes", attributes}}, bytes);
  return bytes;
}

Catalogue Catalogue::unpacked(const std::string& bytes) {
  const nlohmann::json json = nlohmann::json::from_msgpack(bytes);
  Catalogue catalogue;
  catalogue.attributes = json.at("attributes").get<std::map<std::string, std::string>>();
  for (const nlohmann::json& item : json.at("datasets")) {
    CatalogueEntry entry;
    entry.info.path = item.at(0).get<std::string>();
    entry.info.type = static_cast<ElementType>(item.at(1).get<int>());
    entry.info.shape = item.at(2).get<std::vector<std::int64_t>>();
    entry.info.is_chunked = item.at(3).get<bool>();
    entry.info.is_activation = item.at(4).get<bool>();
    entry.info.found_type = item.at(5).get<std::string>();
    entry.is_byte_swapped = item.at(6).get<bool>();
    catalogue.entries.push_back(std::move(entry));
  }
  return catalogue;
}

}  // namespace ringscan
