#include <algorithm>
#include <filesystem>

#include "engine/analysis_request.hpp"

namespace ringscan {
namespace {

std::string parse_file(const Setting& setting) {
  if (setting.value.empty()) throw wrong_value(setting, "a file name");
  return setting.value;
}

/// Ascending numbers, each once.
std::vector<double> parse_number_list(const Setting& setting, std::size_t most, double largest,
                                      std::string_view wanted) {
  std::vector<double> numbers;
  for (const std::string& item : split_list(setting, wanted)) {
    numbers.push_back(parse_number({setting.name, item, setting.where}, wanted));
    if (!(numbers.back() > 0.0 && numbers.back() <= largest)) throw wrong_value(setting, wanted);
  }
  std::sort(numbers.begin(), numbers.end());
  const bool is_twice = std::adjacent_find(numbers.begin(), numbers.end()) != numbers.end();
  if (is_twice || numbers.size() > most) throw wrong_value(setting, wanted);
  return numbers;
}

MeasureChoice parse_measures(const Setting& setting) {
  constexpr std::string_view kWanted = "a list of recency, reach, kept-mass, sign-balance";
  MeasureChoice chosen{false, false, false, false};
  for (const std::string& name : split_list(setting, kWanted)) {
    if (name == "recency") {
      chosen.recency = true;
    } else if (name == "reach") {
      chosen.reach = true;
    } else if (name == "kept-mass") {
      chosen.kept_mass = true;
    } else if (name == "sign-balance") {
      chosen.sign_balance = true;
    } else {
      throw wrong_value(setting, kWanted);
    }
  }
  return chosen;
}

std::string parse_word(const Setting& setting, std::initializer_list<std::string_view> words, std::string_view wanted) {
  if (std::find(words.begin(), words.end(), setting.value) == words.end()) throw wrong_value(setting, wanted);
  return setting.value;
}

double parse_share(const Setting& setting) {
  constexpr std::string_view kWanted = "a number from 0 to 1";
  const double share = parse_number(setting, kWanted);
  if (!(share >= 0.0 && share <= 1.0)) throw wrong_value(setting, kWanted);
  return share;
}

std::size_t parse_memory(const Setting& setting) {
  try {
    return parse_memory_size(setting.value);
  } catch (const Error& error) {
    throw bad_input(setting.where + ": " + error.what());
  }
}

struct AnalysisOption {
  OptionInfo info;
  void (*apply)(AnalysisRequest&, const Setting&);
};

const std::vector<AnalysisOption>& measure_options() {
  using Request = AnalysisRequest;
  static const std::vector<AnalysisOption> options = {
      {{"input", "FILE",
        "activations to read: q and k (HDF5, see docs/activation-files.md); may stand without --input"},
       [](Request& r, const Setting& s) { r.input = parse_file(s); }},
      {{"layers", "GLOB", "layer groups to take (default *: all)"},
       [](Request& r, const Setting& s) {
         if (s.value.empty()) throw wrong_value(s, "a glob on layer names");
         r.layers = s.value;
       }},
      {{"measures", "LIST", "recency, reach, kept-mass, sign-balance, comma-separated (default: all of them)"},
       [](Request& r, const Setting& s) { r.measures = parse_measures(s); }},
      {{"recency-window", "TOKENS", "recent are the keys at most this far from the query (default 256)"},
       [](Request& r, const Setting& s) {
         r.recency_window = parse_whole_number(s, 0, Band::kUnbounded - 1, "a number of tokens, 0 or more");
       }},
      {{"recency-threshold", "NUMBER", "a head of this recency ratio or more is recency-aware (default 0.9)"},
       [](Request& r, const Setting& s) { r.recency_threshold = parse_share(s); }},
      {{"epsilons", "LIST",
        "one to four: the stick's reach ends where less than this is left (default 0.001,0.000001)"},
       [](Request& r, const Setting& s) {
         constexpr std::string_view kWanted = "a list of one to four different numbers over 0 and under 1";
         r.epsilons = parse_number_list(s, 4, 1.0 - 1e-9, kWanted);
         std::reverse(r.epsilons.begin(), r.epsilons.end());
       }},
      {{"select", "NAME",
        "whose mass is kept: the n^C strongest keys (topk, default) or nearest keys (window) of a row"},
       [](Request& r, const Setting& s) {
         r.select = parse_word(s, {"topk", "window"}, "topk or window") == "topk" ? SparseSelect::kTopk
                                                                                  : SparseSelect::kWindow;
       }},
      {{"exponents", "LIST", "the C of n^C kept keys (default 0.4,0.5,0.6,0.7,0.8)"},
       [](Request& r, const Setting& s) {
         r.exponents = parse_number_list(s, 16, 1.0, "a list of at most 16 different numbers over 0, up to 1");
       }},
      {{"scale", "NUMBER", "factor on <q, k> (default 1/sqrt(head_dim))"},
       [](Request& r, const Setting& s) { r.scale = parse_number(s, "a finite number"); }},
  };
  return options;
}

const std::vector<AnalysisOption>& output_options() {
  using Request = AnalysisRequest;
  static const std::vector<AnalysisOption> options = {
      {{"report", "FILE", "write everything as JSON"}, [](Request& r, const Setting& s) { r.report = parse_file(s); }},
      {{"plot", "FILE.png", "draw the measures, heads by layers, one panel each (needs gnuplot)"},
       [](Request& r, const Setting& s) {
         if (!s.value.ends_with(".png")) throw wrong_value(s, "a file name that ends in .png");
         r.plot = s.value;
       }},
      {{"write-config", "FILE.ini", "propose a hybrid for `run`: recency-aware heads replaced, the others kept"},
       [](Request& r, const Setting& s) { r.write_config = parse_file(s); }},
      {{"replace-with", "NAME", "what recency-aware heads get: linear (default) or mamba"},
       [](Request& r, const Setting& s) {
         r.replace_with = parse_word(s, {"linear", "mamba"}, "linear or mamba");
       }},
      {{"keep", "NAME", "what the other heads have: softmax (default), stick-breaking, cog or sparse"},
       [](Request& r, const Setting& s) {
         r.keep =
             parse_word(s, {"softmax", "stick-breaking", "cog", "sparse"}, "softmax, stick-breaking, cog or sparse");
       }},
      {{"allow-nonfinite", "on|off", "take an input that holds NaN or infinity", true},
       [](Request& r, const Setting& s) { r.allow_nonfinite = parse_switch(s); }},
      {{"memory", "SIZE", "the most a rank may use, such as 16G (default: what it has)"},
       [](Request& r, const Setting& s) { r.memory_bytes = parse_memory(s); }},
      {{"progress", "MODE", "auto (default: a bar on a terminal, lines in a log), on or off"},
       [](Request& r, const Setting& s) {
         const std::string mode = parse_word(s, {"auto", "on", "off"}, "auto, on or off");
         r.progress = mode == "auto" ? ProgressMode::kAuto : mode == "on" ? ProgressMode::kOn : ProgressMode::kOff;
       }},
  };
  return options;
}

const std::vector<AnalysisOption>& all_options() {
  static const std::vector<AnalysisOption> options = [] {
    std::vector<AnalysisOption> all = measure_options();
    all.insert(all.end(), output_options().begin(), output_options().end());
    return all;
  }();
  return options;
}

void check_files(const AnalysisRequest& request) {
  if (request.input.empty()) throw bad_input("no input: want ringscan analyze FILE.h5");
  std::vector<std::pair<std::string, std::filesystem::path>> files;
  for (const auto& [option, name] :
       {std::pair{"input", request.input}, std::pair{"report", request.report}, std::pair{"plot", request.plot},
        std::pair{"write-config", request.write_config}}) {
    if (name.empty()) continue;
    const auto plain = std::filesystem::path(name).lexically_normal();
    for (const auto& [other, taken] : files) {
      if (plain == taken) {
        throw bad_input(std::string(option) + ": found " + name + ", which is the " + other +
                        " too, want another file");
      }
    }
    files.emplace_back(option, plain);
  }
}

}  // namespace

std::span<const OptionInfo> analysis_option_infos() {
  static const std::vector<OptionInfo> infos = [] {
    std::vector<OptionInfo> all;
    for (const AnalysisOption& option : all_options()) all.push_back(option.info);
    return all;
  }();
  return infos;
}

AnalysisRequest make_analysis_request(const std::vector<Setting>& settings) {
  AnalysisRequest request;
  for (const Setting& setting : settings) {
    const auto option = std::find_if(all_options().begin(), all_options().end(),
                                     [&](const AnalysisOption& known) { return known.info.name == setting.name; });
    if (option == all_options().end()) throw unknown_setting(setting, analysis_option_infos());
    option->apply(request, setting);
  }
  check_files(request);
  if (!request.write_config.empty() && !request.measures.recency) {
    throw bad_input("write-config: heads are chosen by their recency ratio, want recency among the measures");
  }
  return request;
}

}  // namespace ringscan
