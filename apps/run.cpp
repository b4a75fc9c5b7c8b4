// ringscan run: the main job.

#include "engine/run.hpp"

#include <iostream>
#include <optional>

#include "apps/commands.hpp"
#include "apps/progress.hpp"
#include "engine/run_trace.hpp"
#include "io/report.hpp"

namespace ringscan {

int run_command(Job& job, const RunConfig& config) {
  RunContext context;
  context.transport = &job.transport;
  context.make_access = [&job](Transport& group) { return job.make_access(group); };
  context.ranks_on_node = job.ranks_on_node;
  context.rank_on_node = job.rank_on_node;
  context.on_lone_failure = job.on_lone_failure;
  Progress progress(config.progress, job.is_root() && !config.dry_run, std::cerr);
  context.on_progress = [&progress](double fraction, std::string_view phase) { progress.update(fraction, phase); };

  std::optional<RunTrace> trace;
  if (!config.trace.empty() && !config.dry_run) {
    trace.emplace(job.transport);
    context.transport = &trace->transport();
  }

  const RunReport report = run(config, context);
  progress.finish();
  if (trace) trace->write(config.trace);
  if (!config.report.empty()) write_json_file(job.transport, config.report, to_json(report));
  if (job.is_root()) {
    std::cout << summarize(report);
    if (report.finished) std::cout << "output: " << config.output << "\n";
    if (!config.report.empty()) std::cout << "report: " << config.report << "\n";
    if (trace) std::cout << "trace: " << config.trace << "\n";
  }
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace ringscan
