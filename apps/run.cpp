// ringscan run: the main job.

#include "engine/run.hpp"

#include <signal.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <optional>

#include "apps/commands.hpp"
#include "apps/progress.hpp"
#include "engine/run_trace.hpp"
#include "io/report.hpp"

namespace ringscan {
namespace {

volatile std::sig_atomic_t stop_signal = 0;

extern "C" void note_stop_signal(int signal) {
  stop_signal = signal;
}

/// While it lives, SIGUSR1 and SIGTERM are requests to stop: batch systems send them before a job's time is up.
class StopSignals {
 public:
  StopSignals() {
    struct sigaction action {};
    action.sa_handler = note_stop_signal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &before_[i]);
  }
  ~StopSignals() {
    for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
  }
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

 private:
  static constexpr std::array<int, 2> kSignals{SIGUSR1, SIGTERM};
  std::array<struct sigaction, 2> before_{};
};

/// One line, as of an error: a batch script's log says why the job ended.
void tell_stopped(const RunReport& report) {
  const std::string line = "ringscan: stopped on request: " + std::to_string(report.heads_done) + " heads and " +
                           std::to_string(report.blocks_done) + " blocks are complete beside " + report.config.output +
                           "; --resume goes on from there\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
}

}  // namespace

int run_command(Job& job, const RunConfig& config) {
  check_report_path(job.transport, config.report);
  if (!config.dry_run) check_report_path(job.transport, config.trace);
  RunContext context;
  context.transport = &job.transport;
  context.make_access = [&job](Transport& group) { return job.make_access(group); };
  context.ranks_on_node = job.ranks_on_node;
  context.rank_on_node = job.rank_on_node;
  context.on_lone_failure = job.on_lone_failure;
  // At once: a log that is all there is of a killed job still says what it was about.
  if (job.is_root()) {
    context.on_start = [](const RunReport& begun) { std::cout << describe_start(begun) << std::flush; };
  }
  Progress progress(config.progress, job.is_root() && !config.dry_run, std::cerr);
  context.on_progress = [&progress](double fraction, std::string_view phase) { progress.update(fraction, phase); };

  std::optional<RunTrace> trace;
  if (!config.trace.empty() && !config.dry_run) {
    trace.emplace(job.transport);
    context.transport = &trace->transport();
  }

  std::optional<StopSignals> stop_signals;
  if (!config.dry_run) stop_signals.emplace();
  context.should_stop = [] { return stop_signal != 0; };

  const RunReport report = run(config, context);
  progress.finish();
  if (trace) trace->write(config.trace);
  if (!config.report.empty()) write_json_file(job.transport, config.report, to_json(report));
  if (job.is_root()) {
    if (config.dry_run) std::cout << describe_start(report);
    std::cout << summarize(report);
    if (report.was_complete) std::cout << config.output << ": is complete already\n";
    if (report.finished) std::cout << "output: " << config.output << "\n";
    if (!config.report.empty()) std::cout << "report: " << config.report << "\n";
    if (trace) std::cout << "trace: " << config.trace << "\n";
  }
  if (report.stopped && job.is_root()) tell_stopped(report);
  return static_cast<int>(report.stopped ? ExitCode::kStopped : ExitCode::kDone);
}

}  // namespace ringscan
