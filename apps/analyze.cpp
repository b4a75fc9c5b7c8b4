// ringscan analyze: what the heads of activations look like, and which of them a hybrid could replace.

#include <fstream>
#include <iostream>

#include "apps/analysis_plot.hpp"
#include "apps/commands.hpp"
#include "apps/gnuplot.hpp"
#include "apps/progress.hpp"
#include "engine/analysis.hpp"
#include "io/report.hpp"

namespace ringscan {
namespace {

/// Collective: before anything is computed, that what is asked for can be made.
void check_outputs(Job& job, const AnalysisRequest& request) {
  run_collectively(job.transport, [&] {
    if (job.is_root() && !request.plot.empty()) require_gnuplot();
  });
  for (const std::string& file : {request.report, request.plot, request.write_config}) {
    check_report_path(job.transport, file);
  }
}

void write_text(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  if (!out) throw failure(path + ": cannot be written");
}

}  // namespace

int analyze_command(Job& job, const AnalysisRequest& request) {
  check_outputs(job, request);
  Progress progress(request.progress, job.is_root(), std::cerr);
  AnalysisContext context;
  context.transport = &job.transport;
  context.access = &job.access;
  context.ranks_on_node = job.ranks_on_node;
  context.on_progress = [&progress](double fraction, std::string_view phase) { progress.update(fraction, phase); };
  const Analysis analysis = analyze(request, context);
  progress.finish();

  if (!request.report.empty()) write_json_file(job.transport, request.report, to_json(analysis));
  run_collectively(job.transport, [&] {
    if (!job.is_root()) return;
    std::cout << summarize(analysis);
    if (!request.report.empty()) std::cout << "report: " << request.report << "\n";
    if (!request.plot.empty()) {
      draw_plot(analysis, request.plot);
      std::cout << "plot: " << request.plot << "\n";
    }
    if (request.write_config.empty()) return;
    for (const HybridProposal& proposal : propose_hybrids(analysis)) {
      const std::string path = config_path(analysis, proposal);
      write_text(path, config_text(analysis, proposal));
      std::cout << "configuration: " << path << "\n";
    }
  });
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace ringscan
