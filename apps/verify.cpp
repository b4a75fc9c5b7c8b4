// ringscan verify: checks an output against the float64 oracle.

#include "engine/verify.hpp"

#include <iostream>

#include "apps/commands.hpp"
#include "core/error.hpp"
#include "io/report.hpp"

namespace ringscan {

int verify_command(Job& job, const VerifyOptions& options) {
  check_report_path(job.transport, options.report);
  const VerifyReport report =
      verify({options.input, options.output, options.rows, options.seed, options.tolerance}, job.access);
  if (!options.report.empty()) write_json_file(job.transport, options.report, to_json(report));
  if (job.is_root()) {
    std::cout << summarize(report);
    if (!options.report.empty()) std::cout << "report: " << options.report << "\n";
  }
  return static_cast<int>(report.passed() ? ExitCode::kDone : ExitCode::kVerificationFailed);
}

}  // namespace ringscan
