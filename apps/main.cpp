// Starts the ranks (threads of this process, or the processes a launcher started), runs the command on each, and turns
// an error into one line and an exit code.

#include <mpi.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <iostream>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "apps/commands.hpp"
#include "apps/launch.hpp"
#include "comm/local_transport.hpp"
#include "comm/mpi_transport.hpp"
#include "io/mpi_file_access.hpp"

namespace ringscan {
namespace {

using Arguments = std::vector<std::string>;

void print_error(const Error& error) {
  // One write, so that lines of several processes do not mix.
  const std::string line = std::string("ringscan: ") + error.what() + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
}

/// Whatever `work` throws, as an Error.
template <typename Work>
std::optional<Error> error_of(Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return failure("out of memory");
  } catch (const std::exception& error) {
    return failure(error.what());
  }
  return std::nullopt;
}

void start_logging(const std::string& level, bool is_root) {
  const auto logger = std::make_shared<spdlog::logger>("ringscan", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("ringscan: %l: %v");
  logger->set_level(spdlog::level::from_str(level));
  // What all ranks would say alike, one says.
  if (!is_root && logger->level() < spdlog::level::warn) logger->set_level(spdlog::level::warn);
  spdlog::set_default_logger(logger);
}

int run_command_of(Job& job, const Invocation& invocation) {
  return std::visit(
      [&](const auto& options) {
        using Options = std::decay_t<decltype(options)>;
        if constexpr (std::is_same_v<Options, RunConfig>) return run_command(job, options);
        if constexpr (std::is_same_v<Options, GenerateOptions>) return generate_command(job, options);
        if constexpr (std::is_same_v<Options, AnalysisRequest>) return analyze_command(job, options);
        if constexpr (std::is_same_v<Options, VerifyOptions>) return verify_command(job, options);
        if constexpr (std::is_same_v<Options, InspectOptions>) return inspect_command(job, options);
        if constexpr (std::is_same_v<Options, BenchOptions>) return bench_command(job, options);
        if constexpr (std::is_same_v<Options, PlanOptions>) return plan_command(job, options);
      },
      invocation.command);
}

/// One process; its ranks are threads. MPI is not called.
int run_alone(const Arguments& arguments, const Launch& launch) {
  int code = static_cast<int>(ExitCode::kDone);
  const std::optional<Error> error = error_of([&] {
    check_world(launch, 1);
    const Invocation invocation = parse_command_line(arguments);
    start_logging(invocation.log_level, true);
    const int ranks = invocation.ranks.value_or(1);
    run_ranks(ranks, [&](Transport& transport) {
      const std::unique_ptr<FileAccess> access = make_shared_file_access(transport);
      Job job{transport, *access,          [](Transport& group) { return make_shared_file_access(group); },
              ranks,     transport.rank(), [&transport](const Error&) { transport.announce_failure(); }};
      const int own_code = run_command_of(job, invocation);
      if (job.is_root()) code = own_code;
    });
  });
  if (!error) return code;
  if (launch.rank == 0) print_error(*error);
  return static_cast<int>(error->code());
}

/// Owns a duplicate of a communicator.
class Communicator {
 public:
  explicit Communicator(MPI_Comm parent) { MPI_Comm_dup(parent, &communicator_); }
  ~Communicator() { MPI_Comm_free(&communicator_); }
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  MPI_Comm get() const { return communicator_; }

 private:
  MPI_Comm communicator_ = MPI_COMM_NULL;
};

int count_ranks(MPI_Comm communicator) {
  int ranks = 1;
  MPI_Comm_size(communicator, &ranks);
  return ranks;
}

/// Ranks that share this one's memory, and its place among them.
struct NodePlace {
  int ranks = 1;
  int rank = 0;
};

NodePlace place_on_node() {
  MPI_Comm node = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  NodePlace place{count_ranks(node), 0};
  MPI_Comm_rank(node, &place.rank);
  MPI_Comm_free(&node);
  return place;
}

/// The other ranks wait for this one in calls that it will never make: end them.
[[noreturn]] void end_job(const Error& error) {
  print_error(error);
  MPI_Abort(MPI_COMM_WORLD, static_cast<int>(error.code()));
  std::exit(static_cast<int>(error.code()));  // MPI_Abort does not return where MPI is well
}

/// This process is one rank of an MPI job.
int run_as_rank(const Arguments& arguments, const Launch& launch) {
  int code = static_cast<int>(ExitCode::kDone);
  const std::optional<Error> error = error_of([&] {
    // Two: one for what the command does itself, one for the thread that reads and writes beside it.
    const Communicator file_communicator(MPI_COMM_WORLD);
    const Communicator beside_communicator(MPI_COMM_WORLD);
    const std::unique_ptr<Transport> transport = make_mpi_transport(MPI_COMM_WORLD);
    check_world(launch, transport->world_size());
    Invocation invocation;
    run_collectively(*transport, [&] {
      invocation = parse_command_line(arguments);
      if (invocation.ranks) {
        throw bad_input("--ranks: found " + std::to_string(*invocation.ranks) +
                        ", but the launcher's processes are the ranks here, want it left out");
      }
    });
    start_logging(invocation.log_level, transport->rank() == 0);
    const std::unique_ptr<FileAccess> access = make_mpi_file_access(file_communicator.get(), *transport);
    const NodePlace node = place_on_node();
    Job job{
        *transport, *access,   [&](Transport& group) { return make_mpi_file_access(beside_communicator.get(), group); },
        node.ranks, node.rank, {}};
    if (transport->world_size() > 1) job.on_lone_failure = end_job;
    code = run_command_of(job, invocation);
  });
  if (!error) return code;
  if (!error->is_collective() && count_ranks(MPI_COMM_WORLD) > 1) end_job(*error);
  if (launch.rank == 0) print_error(*error);
  return static_cast<int>(error->code());
}

int start_as_rank(int argc, char** argv, const Arguments& arguments, const Launch& launch) {
  int provided = MPI_THREAD_SINGLE;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  const int code = run_as_rank(arguments, launch);
  MPI_Finalize();
  return code;
}

int start(int argc, char** argv) {
  const Arguments arguments(argv + 1, argv + argc);
  const Launch launch = detect_launch();
  std::optional<std::string> help;
  // An error in the words before --help is told below, where all ranks agree on it.
  error_of([&] { help = help_text(arguments); });
  if (help) {
    if (launch.rank == 0) std::cout << *help << std::flush;
    return static_cast<int>(ExitCode::kDone);
  }
  return launch.by_launcher ? start_as_rank(argc, argv, arguments, launch) : run_alone(arguments, launch);
}

}  // namespace
}  // namespace ringscan

int main(int argc, char** argv) {
  return ringscan::start(argc, argv);
}
