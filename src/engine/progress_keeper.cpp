#include "engine/progress_keeper.hpp"

#include <unistd.h>

#include <optional>

#include "io/activation_file.hpp"
#include "io/progress_file.hpp"

namespace ringscan {

ProgressKeeper::ProgressKeeper(const RunConfig& config, const RunContext& context, const std::string& backend)
    : config_(config), context_(context) {
  Transport& transport = *context.transport;
  std::string begun;
  run_collectively(transport, [&] {
    if (transport.rank() == 0) begun = to_json(begin_progress(config, backend, transport.world_size()));
  });
  transport.broadcast(begun, 0);
  progress_ = parse_progress(begun, config.output);
  if (!config.resume || config.output.empty()) return;
  const std::optional<std::string> record = read_progress(transport, config.output);
  if (!record) return;
  run_collectively(transport, [&] {
    RunProgress then = parse_progress(*record, config.output);
    check_same_job(then, progress_, config.output);
    progress_ = std::move(then);
  });
  resumes_ = true;
}

bool ProgressKeeper::is_stopping() {
  if (!context_.should_stop || is_stopping_) return is_stopping_;
  const std::int64_t asked = context_.should_stop() ? 1 : 0;
  is_stopping_ = context_.transport->RankGroup::all_reduce(asked, ReduceOp::kMax) == 1;
  return is_stopping_;
}

void ProgressKeeper::note_heads(const std::string& layer, const std::vector<int>& heads) {
  progress_.heads[layer].insert(heads.begin(), heads.end());
}

void ProgressKeeper::note_block(const BlockPlan& block) {
  progress_.blocks.insert(key_of(block));
}

void ProgressKeeper::save() {
  write_progress(*context_.transport, config_.output, to_json(progress_));
}

bool is_complete(const RunConfig& config, FileAccess& access) {
  RankGroup& group = access.group();
  const std::int64_t is_there = group.rank() == 0 && ::access(config.output.c_str(), R_OK) == 0 ? 1 : 0;
  if (group.all_reduce(is_there, ReduceOp::kMax) == 0) return false;
  const auto attributes = ActivationReader(access, config.output).attributes();
  const auto complete = attributes.find("complete");
  const auto configuration = attributes.find("configuration");
  if (complete == attributes.end() || complete->second != "1" || configuration == attributes.end()) return false;
  // Both as they are read: assignments in one order.
  return parse_run_config(configuration->second).result_text() == parse_run_config(config.text()).result_text();
}

}  // namespace ringscan
