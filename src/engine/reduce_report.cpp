#include <array>
#include <type_traits>

#include "comm/transport.hpp"
#include "engine/run_report.hpp"

namespace ringscan {

void reduce(RunReport& report, Transport& transport) {
  std::array seconds{&report.total_seconds,   &report.read_seconds,       &report.read_wait_seconds,
                     &report.compute_seconds, &report.exposed_seconds,    &report.finish_seconds,
                     &report.write_seconds,   &report.write_wait_seconds, &report.context_wait_seconds,
                     &report.staging_seconds};
  for (double* value : seconds) *value = transport.RankGroup::all_reduce(*value, ReduceOp::kMax);
  report.computed_flops = transport.RankGroup::all_reduce(report.computed_flops, ReduceOp::kSum);
  const auto reduce_integer = [&](auto& value, ReduceOp op) {
    value = static_cast<std::decay_t<decltype(value)>>(
        transport.RankGroup::all_reduce(static_cast<std::int64_t>(value), op));
  };
  reduce_integer(report.stats.pairs, ReduceOp::kSum);
  KeptMassFigures& mass = report.kept_mass;
  reduce_integer(mass.rows, ReduceOp::kSum);
  mass.sum = transport.RankGroup::all_reduce(mass.sum, ReduceOp::kSum);
  mass.min = transport.RankGroup::all_reduce(mass.min, ReduceOp::kMin);
  mass.error_bound = transport.RankGroup::all_reduce(mass.error_bound, ReduceOp::kMax);
  reduce_integer(report.stats.tiles_computed, ReduceOp::kSum);
  reduce_integer(report.stats.tiles_skipped, ReduceOp::kSum);
  reduce_integer(report.sent_bytes, ReduceOp::kSum);
  reduce_integer(report.read_bytes, ReduceOp::kSum);
  reduce_integer(report.context_bytes, ReduceOp::kMax);
  reduce_integer(report.written_bytes, ReduceOp::kSum);
  reduce_integer(report.not_collective, ReduceOp::kSum);
  reduce_integer(report.peak_bytes, ReduceOp::kMax);
  reduce_integer(report.resident_bytes, ReduceOp::kMax);
  reduce_integer(report.device_peak_bytes, ReduceOp::kMax);
}

}  // namespace ringscan
