#include <cstdio>
#include <iostream>

#include "apps/commands.hpp"
#include "apps/progress.hpp"
#include "core/stopwatch.hpp"
#include "core/units.hpp"

namespace ringscan {

int generate_command(Job& job, const GenerateOptions& options) {
  const Stopwatch watch;
  const SyntheticSpec& spec = options.spec;
  Progress progress(ProgressMode::kAuto, job.is_root(), std::cerr);
  write_synthetic(job.access, spec, options.output, options.overwrite,
                  [&](double fraction) { progress.update(fraction, "writing"); });
  progress.finish();
  if (job.is_root()) {
    std::cout << options.output << ": " << spec.num_layers << (spec.num_layers == 1 ? " layer" : " layers") << " of "
              << name_of(spec.kind)
              << (spec.is_block()             ? " inputs, "
                  : spec.num_linear_heads > 0 ? " q, k, v, log_decay, "
                                              : " q, k, v, ")
              << spec.seq_len << " tokens, " << spec.num_heads << " heads (" << spec.num_kv_heads << " KV), "
              << name_of(spec.dtype) << ", " << human_bytes(static_cast<std::size_t>(spec.payload_bytes())) << " in "
              << human_seconds(watch.seconds()) << "\n";
  }
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace ringscan
