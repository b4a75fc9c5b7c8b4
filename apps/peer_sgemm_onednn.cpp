#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include <algorithm>
#include <vector>

#include "apps/peer_sgemm.hpp"
#include "core/error.hpp"
#include "core/stopwatch.hpp"

namespace ringscan {

std::optional<double> measure_onednn_sgemm_gflops(std::int64_t size) {
  omp_set_num_threads(1);
  const auto count = static_cast<std::size_t>(size * size);
  std::vector<float> a(count, 1.0f), b(count, 0.5f), c(count);
  double best_seconds = 1e30;
  for (int repeat = 0; repeat < 4; ++repeat) {
    const ThreadStopwatch watch;
    if (dnnl_sgemm('N', 'N', size, size, size, 1.0f, a.data(), size, b.data(), size, 0.0f, c.data(), size) !=
        dnnl_success) {
      throw failure("oneDNN's sgemm failed");
    }
    best_seconds = std::min(best_seconds, watch.seconds());
  }
  return 2.0 * static_cast<double>(size) * static_cast<double>(size) * static_cast<double>(size) / best_seconds * 1e-9;
}

}  // namespace ringscan
