// bench io: every rank writes its slab of q, then reads it; a file for each number of ranks and tokens.

#include <cstdio>
#include <cstring>
#include <memory>

#include "apps/bench_profile.hpp"
#include "apps/measurement.hpp"
#include "apps/scaling_point.hpp"
#include "core/stopwatch.hpp"
#include "engine/synthetic_activations.hpp"
#include "io/activation_file.hpp"

namespace ringscan {

IoRates measure_io(RankGroup& group, FileAccess& access, const BenchOptions& options, std::int64_t seq_len) {
  const SequenceLayout layout(LayoutKind::kContiguous, seq_len, group.world_size(), 1);
  const TokenRun mine = layout.chunks(group.rank())[0].run;
  const std::int64_t head_dim = options.head_dims.front();
  SlabSelection selection;
  if (!mine.empty()) selection.tokens = {mine};
  for (int head = 0; head < options.heads; ++head) selection.heads.push_back(head);
  const auto elements = static_cast<std::size_t>(mine.size() * options.heads * head_dim);
  std::vector<float> values(elements);
  fill_normal(0, group.rank(), 1, 0, values);
  Buffer slab(elements * size_of(options.dtype));
  convert_elements(values.data(), ElementType::kFloat32, slab.data(), options.dtype, elements);
  values = {};
  const double bytes =
      static_cast<double>(seq_len * options.heads * head_dim) * static_cast<double>(size_of(options.dtype));
  IoRates rates;
  {
    ActivationWriter writer(access, options.file, true);
    const DatasetInfo dataset = writer.create("0", "q", options.dtype, {1, seq_len, options.heads, head_dim});
    writer.settle();
    group.barrier();
    const Stopwatch watch;
    writer.write_slab(dataset, selection, slab.data());
    rates.written = bytes / group.all_reduce(watch.seconds(), ReduceOp::kMax);
    writer.finish();
  }
  ActivationReader reader(access, options.file);
  const DatasetInfo dataset = *reader.find("0", "q");
  group.barrier();
  const Stopwatch watch;
  const Buffer found = reader.read_slab(dataset, selection, false, nullptr);
  rates.read = bytes / group.all_reduce(watch.seconds(), ReduceOp::kMax);
  run_collectively(group, [&] {
    if (std::memcmp(found.data(), std::as_const(slab).data(), found.size_bytes()) != 0) {
      throw failure(options.file + ": what was read is not what was written");
    }
  });
  return rates;
}

namespace {

void print_rates(int ranks, std::int64_t seq_len, double bytes, const char* what, const std::vector<double>& rates) {
  const Quartiles found = quartiles(rates);
  std::printf("%5d %12lld %10.1f %8s %10.3f %10.3f-%.3f\n", ranks, static_cast<long long>(seq_len), bytes / 0x1p20,
              what, found.median * 1e-9, found.first * 1e-9, found.third * 1e-9);
  std::fflush(stdout);
}

}  // namespace

void bench_io(Job& job, const BenchOptions& options, std::string& json_lines) {
  if (job.is_root()) {
    std::printf(
        "%s; %d repetitions, by the slowest rank; what was just written may be read from the system's memory\n\n%5s "
        "%12s "
        "%10s %8s %10s %21s\n",
        job.access.is_parallel() ? "MPI-IO" : "threads of one process take turns", options.repeats, "ranks", "tokens",
        "MiB", "", "GB/s", "quartiles");
  }
  for (const int ranks : options.worlds) {
    const std::unique_ptr<Transport> part = job.transport.first_ranks(ranks);
    std::unique_ptr<FileAccess> access;
    // An access of its own only threads can have for a part: processes open files over all of MPI_COMM_WORLD.
    if (part && !job.access.is_parallel()) access = make_shared_file_access(*part);
    if (job.access.is_parallel() && ranks < job.transport.world_size()) {
      throw bad_input("--world: bench io over processes wants all ranks: start it with " + std::to_string(ranks));
    }
    FileAccess& open = access ? *access : job.access;
    for (std::size_t i = 0; part && i < options.seq_lens.size(); ++i) {
      const std::int64_t seq_len = options.seq_lens[i];
      std::vector<double> read, written;
      for (int repeat = -1; repeat < options.repeats; ++repeat) {  // the first is the warm-up
        const IoRates rates = measure_io(*part, open, options, seq_len);
        if (repeat < 0) continue;
        read.push_back(rates.read);
        written.push_back(rates.written);
      }
      if (!job.is_root()) continue;
      const double bytes = static_cast<double>(seq_len * options.heads * options.head_dims.front()) *
                           static_cast<double>(size_of(options.dtype));
      print_rates(ranks, seq_len, bytes, "written", written);
      print_rates(ranks, seq_len, bytes, "read", read);
      const Parameters parameters{{"ranks", ranks}, {"bytes", bytes}};
      for (const double rate : written) json_lines += extrap_line(parameters, "io->write", "seconds", bytes / rate);
      for (const double rate : read) json_lines += extrap_line(parameters, "io->read", "seconds", bytes / rate);
    }
    release_idle(job.transport, ranks);
  }
  if (job.is_root()) std::remove(options.file.c_str());
}

}  // namespace ringscan
