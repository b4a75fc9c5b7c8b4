#include "kernels/cpu/exp_rate.hpp"

#include <cstdint>

#include "core/stopwatch.hpp"
#include "kernels/cpu/ssm_ops.hpp"

namespace ringscan {

double measure_exp_rate(double seconds) {
  constexpr std::int64_t kRounds = 1 << 14;
  const cpu::SsmOps& ops = cpu::ssm_ops();
  const ThreadStopwatch watch;
  double count = 0.0;
  do {
    float sink = -0.125f;
    count += ops.run_decays(kRounds, &sink);
  } while (watch.seconds() < seconds);
  return count / watch.seconds();
}

}  // namespace ringscan
