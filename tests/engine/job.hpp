#pragma once
// What tests of whole jobs, file to file, share.

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "comm/transport.hpp"
#include "core/error.hpp"
#include "engine/run.hpp"
#include "engine/verify.hpp"
#include "io/activation_file.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/engine/access.hpp"

namespace ringscan::test {

/// A folder of its own for each world; rank 0 removes it, once all are through.
class Folder {
 public:
  explicit Folder(Transport& transport) : transport_(transport) {
    if (transport.rank() == 0) {
      std::string pattern = (std::filesystem::temp_directory_path() / "ringscan-job-XXXXXX").string();
      if (mkdtemp(pattern.data()) == nullptr) throw failure("no temporary folder");
      path_ = pattern;
    }
    transport.broadcast(path_, 0);
  }
  ~Folder() {
    transport_.barrier();
    if (transport_.rank() != 0) return;
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(path_), std::filesystem::directory_iterator()));
  }

 private:
  Transport& transport_;
  std::string path_;
};

inline RunContext make_context(Transport& transport) {
  RunContext context;
  context.transport = &transport;
  context.make_access = [](Transport& group) { return make_access(group); };
  return context;
}

/// Collective: all rows of the output against the oracle.
inline VerifyReport verify_all(const std::string& input, const std::string& output, Transport& transport) {
  const auto access = make_access(transport);
  VerifyRequest request;
  request.input = input;
  request.output = output;
  request.rows = std::nullopt;
  return verify(request, *access);
}

/// As verify_all(), and tells what fails.
inline bool verifies(const std::string& input, const std::string& output, Transport& transport) {
  const VerifyReport report = verify_all(input, output, transport);
  if (!report.passed() && transport.rank() == 0) std::fputs(summarize(report).c_str(), stderr);
  return report.passed() && !report.checks.empty();
}

/// The message of the bad-input error that every rank gets; empty: there was none.
inline std::string refusal(const RunConfig& config, Transport& transport) {
  try {
    run(config, make_context(transport));
  } catch (const Error& error) {
    expect(transport, error.code() == ExitCode::kBadInput && error.is_collective());
    return error.what();
  }
  return "";
}

inline bool mentions(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

inline std::vector<double> read_output(const std::string& path, const std::string& layer, const std::string& dataset,
                                       Transport& transport) {
  const auto access = make_access(transport);
  ActivationReader reader(*access, path);
  return reader.read_whole(*reader.find(layer, dataset));
}

}  // namespace ringscan::test
