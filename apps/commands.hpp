#pragma once
// One function a command, collective over the job's ranks. Each returns the exit code, the same on all ranks; results
// go to stdout by rank 0. @throws Error: collective where all ranks agreed on it, else of this rank alone.

#include "apps/job.hpp"
#include "apps/options.hpp"

namespace ringscan {

int run_command(Job& job, const RunConfig& config);
int analyze_command(Job& job, const AnalysisRequest& request);
int verify_command(Job& job, const VerifyOptions& options);
int generate_command(Job& job, const GenerateOptions& options);
int inspect_command(Job& job, const InspectOptions& options);
int bench_command(Job& job, const BenchOptions& options);
int plan_command(Job& job, const PlanOptions& options);

}  // namespace ringscan
