#include "engine/run_progress.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.hpp"

namespace ringscan {
namespace {

using Json = nlohmann::ordered_json;

std::string describe_file(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) throw bad_input(path + ": cannot be read: " + std::strerror(errno));
  return path + ": " + std::to_string(info.st_size) + " bytes of " + std::to_string(info.st_mtim.tv_sec) + "." +
         std::to_string(info.st_mtim.tv_nsec) + "\n";
}

/// The first line of `a` that is not in `b` at its place, for a message.
std::string first_difference(const std::string& a, const std::string& b) {
  std::size_t begin = 0;
  while (begin < a.size()) {
    const std::size_t end = std::min(a.find('\n', begin), a.size());
    const std::string line = a.substr(begin, end - begin);
    if (("\n" + b).find("\n" + line + "\n") == std::string::npos) return line;
    begin = end + 1;
  }
  return "";
}

/// [batch, tokens, heads, dim] -> the heads at `places`, dense.
Buffer pick(const AnyView& from, const std::vector<std::size_t>& places, MutableAnyView& to, MemoryLedger* ledger) {
  const std::size_t row = static_cast<std::size_t>(from.shape[3]) * size_of(from.type);
  const auto rows = static_cast<std::size_t>(from.shape[0] * from.shape[1]);
  const auto heads = static_cast<std::size_t>(from.shape[2]);
  Buffer picked(rows * places.size() * row, ledger);
  const auto* source = static_cast<const std::byte*>(from.data);
  auto* target = static_cast<std::byte*>(picked.data());
  for (std::size_t i = 0; i < rows; ++i) {
    for (const std::size_t place : places) {
      std::memcpy(target, source + (i * heads + place) * row, row);
      target += row;
    }
  }
  to = dense_any_view(static_cast<void*>(picked.data()), from.type,
                      {from.shape[0], from.shape[1], static_cast<std::int64_t>(places.size()), from.shape[3]});
  return picked;
}

void pick(const TensorView<float>& from, const std::vector<std::size_t>& places, Buffer& to, TensorView<float>& view,
          MemoryLedger* ledger) {
  if (from.data == nullptr) return;
  MutableAnyView picked;
  to = pick(dense_any_view(static_cast<const void*>(from.data), ElementType::kFloat32, from.shape), places, picked,
            ledger);
  view = dense_view(to.as<float>(), {from.shape[0], from.shape[1], picked.shape[2], from.shape[3]});
}

/// Likewise of [batch, heads, ...]; empty where there are none on this rank.
std::vector<double> pick(const std::vector<double>& from, std::int64_t batch, std::size_t heads,
                         const std::vector<std::size_t>& places) {
  std::vector<double> picked;
  if (from.empty()) return picked;
  const std::size_t size = from.size() / (static_cast<std::size_t>(batch) * heads);
  for (std::size_t b = 0; b < static_cast<std::size_t>(batch); ++b) {
    for (const std::size_t place : places) {
      const auto first = from.begin() + static_cast<std::ptrdiff_t>((b * heads + place) * size);
      picked.insert(picked.end(), first, first + static_cast<std::ptrdiff_t>(size));
    }
  }
  return picked;
}

std::vector<std::size_t> places_of(const std::vector<int>& all, const std::vector<int>& some) {
  std::vector<std::size_t> places;
  for (const int head : some) {
    places.push_back(static_cast<std::size_t>(std::lower_bound(all.begin(), all.end(), head) - all.begin()));
  }
  return places;
}

}  // namespace

std::size_t RunProgress::count_heads() const {
  std::size_t count = 0;
  for (const auto& [layer, done] : heads) count += done.size();
  return count;
}

RunProgress begin_progress(const RunConfig& config, const std::string& backend, int world_size) {
  RunProgress progress;
  progress.configuration = config.result_text();
  progress.files = describe_file(config.input);
  for (const std::string& file : config.context) progress.files += describe_file(file);
  if (!config.initial_state.empty()) progress.files += describe_file(config.initial_state);
  progress.backend = backend;
  progress.world_size = config.reproducible ? 0 : world_size;
  return progress;
}

std::string to_json(const RunProgress& progress) {
  Json heads = Json::object();
  for (const auto& [layer, done] : progress.heads) heads[layer] = done;
  return Json{{"version", 1},
              {"configuration", progress.configuration},
              {"files", progress.files},
              {"backend", progress.backend},
              {"world_size", progress.world_size},
              {"heads", heads},
              {"blocks", progress.blocks}}
      .dump(1);
}

RunProgress parse_progress(const std::string& json, const std::string& where) {
  try {
    const Json record = Json::parse(json);
    RunProgress progress;
    if (record.at("version") != 1) throw bad_input(where + ": its record of progress is another version's");
    record.at("configuration").get_to(progress.configuration);
    record.at("files").get_to(progress.files);
    record.at("backend").get_to(progress.backend);
    record.at("world_size").get_to(progress.world_size);
    for (const auto& [layer, done] : record.at("heads").items()) done.get_to(progress.heads[layer]);
    record.at("blocks").get_to(progress.blocks);
    return progress;
  } catch (const nlohmann::json::exception&) {
    throw bad_input(where + ": its record of progress is damaged; run without --resume");
  }
}

void check_same_job(const RunProgress& then, const RunProgress& now, const std::string& output) {
  const auto differ = [&](const std::string& found, const std::string& wanted) {
    return bad_input("resume: " + output + " was begun with " + wanted + ", found " + found +
                     " now; run as then, or without --resume");
  };
  if (then.configuration != now.configuration) {
    const std::string found = first_difference(now.configuration, then.configuration);
    const std::string wanted = first_difference(then.configuration, now.configuration);
    throw differ(found.empty() ? "no such option" : "'" + found + "'",
                 wanted.empty() ? "another configuration" : "'" + wanted + "'");
  }
  if (then.files != now.files) {
    throw differ("'" + first_difference(now.files, then.files) + "'",
                 "'" + first_difference(then.files, now.files) + "'");
  }
  if (then.backend != now.backend) throw differ("backend " + now.backend, "backend " + then.backend);
  if (then.world_size != now.world_size) {
    throw differ(std::to_string(now.world_size) + " ranks", std::to_string(then.world_size) + " ranks");
  }
}

std::string key_of(const BlockPlan& block) {
  return std::string(name_of(block.shape.mechanism)) + " of " + block.shape.label();
}

ShardPlan keep_heads(const ShardPlan& shard, const LayerShape& layer, const std::set<int>& keeps) {
  ShardPlan kept{shard.layer, shard.layout, {}, {}, {}};
  const auto take = [&](const std::vector<int>& heads) {
    std::vector<int> taken;
    std::copy_if(heads.begin(), heads.end(), std::back_inserter(taken), [&](int head) { return keeps.contains(head); });
    return taken;
  };
  const auto kv_heads_of = [&](const std::vector<int>& heads) {
    std::set<int> kv_heads;
    for (const int head : heads) kv_heads.insert(layer.kv_head_of(head));
    return std::vector<int>(kv_heads.begin(), kv_heads.end());
  };
  kept.heads = take(shard.heads);
  kept.kv_heads = kv_heads_of(kept.heads);
  for (const PassPlan& pass : shard.passes) {
    PassPlan part = pass;
    part.groups.clear();
    std::size_t heads = 0, kv_heads = 0, all_heads = 0, all_kv_heads = 0;
    for (const HeadGroup& group : pass.groups) {
      HeadGroup left{take(group.heads), {}};
      left.kv_heads = kv_heads_of(left.heads);
      heads += left.heads.size();
      kv_heads += left.kv_heads.size();
      all_heads += group.heads.size();
      all_kv_heads += group.kv_heads.size();
      if (!left.heads.empty()) part.groups.push_back(std::move(left));
    }
    if (part.groups.empty()) continue;
    part.flops *= static_cast<double>(heads) / static_cast<double>(all_heads);
    part.pairs = part.pairs / static_cast<std::int64_t>(all_heads) * static_cast<std::int64_t>(heads);
    part.moved_bytes = part.moved_bytes / all_kv_heads * kv_heads;
    part.context_bytes = part.context_bytes / all_kv_heads * kv_heads;
    kept.passes.push_back(std::move(part));
  }
  return kept;
}

void skip_complete(RunPlan& plan, const RunProgress& progress) {
  std::vector<ShardPlan> shards;
  for (const ShardPlan& shard : plan.shards) {
    const LayerShape& layer = plan.layers[static_cast<std::size_t>(shard.layer)];
    const auto done = progress.heads.find(layer.name);
    std::set<int> left(shard.heads.begin(), shard.heads.end());
    if (done != progress.heads.end()) {
      for (const int head : done->second) left.erase(head);
    }
    if (!left.empty()) shards.push_back(keep_heads(shard, layer, left));
  }
  plan.shards = std::move(shards);
  std::erase_if(plan.blocks, [&](const BlockPlan& block) { return progress.blocks.contains(key_of(block)); });
}

ShardOutput pick_heads(const ShardOutput& output, const LayerShape& layer, const ShardPlan& shard,
                       const ShardPlan& part, const RunConfig& config, MemoryLedger* ledger) {
  const std::vector<std::size_t> places = places_of(shard.heads, part.heads);
  ShardOutput picked;
  picked.o_buffer = pick(dense_any_view(static_cast<const void*>(output.o.data), output.o.type, output.o.shape), places,
                         picked.o, ledger);
  pick(output.lse, places, picked.lse_buffer, picked.lse, ledger);
  pick(output.remainder, places, picked.remainder_buffer, picked.remainder, ledger);
  pick(output.kept_mass, places, picked.kept_mass_buffer, picked.kept_mass, ledger);
  const std::vector<int> linear = linear_heads_of(config, layer.num_heads, shard.heads);
  const std::vector<std::size_t> states = places_of(linear, linear_heads_of(config, layer.num_heads, part.heads));
  picked.states.s = pick(output.states.s, layer.batch, linear.size(), states);
  picked.states.n = pick(output.states.n, layer.batch, linear.size(), states);
  return picked;
}

}  // namespace ringscan
