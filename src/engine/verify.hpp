#pragma once
// Checks an output file against the float64 oracle.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/file_access.hpp"

namespace ringscan {

struct VerifyRequest {
  std::string input;
  std::string output;
  std::optional<std::int64_t> rows = 256;  ///< sampled rows a layer, over all batch items and heads; none: all
  std::uint64_t seed = 0;                  ///< of the sample
  std::optional<double> tolerance;         ///< for o, relative to max|v|; none: the bound of the output's type
};

/// How far one row is from the oracle.
struct RowError {
  std::int64_t batch = 0;
  std::int64_t query = 0;  ///< global token
  std::int64_t head = 0;
  double error = 0.0;  ///< in the units of its check; infinite where the output is NaN
};

/// One dataset of one layer, as far as one mechanism's heads go.
struct DatasetCheck {
  std::string layer;
  std::string mechanism;
  std::string dataset;  ///< "o": errors relative to max|v|; "lse": to max(1, |lse|); "remainder": absolute
  std::int64_t rows = 0;
  double bound = 0.0;
  std::vector<RowError> worst;  ///< largest first, at most kWorstRows

  static constexpr std::size_t kWorstRows = 8;
  double worst_error() const { return worst.empty() ? 0.0 : worst.front().error; }
  bool passed() const { return worst_error() <= bound; }
};

struct VerifyReport {
  VerifyRequest request;
  std::string backend;        ///< that made the output
  std::string configuration;  ///< of the run that made it
  std::vector<DatasetCheck> checks;
  double seconds = 0.0;

  bool passed() const;
};

/// Collective over the access's group; the report is the same on every rank. A row is a query of one head of one batch
/// item. Each head's sample holds its first and last rows and rows at the edges of tiles and of halves, at least; so
/// small samples grow to that. Rows are dealt to the ranks; a head's keys are read in blocks, near first.
///
/// Bounds for o, as max abs error over a row relative to max|v| over all keys of its head, the context's among them
/// (and, where the remainder goes to a vector, to that vector's largest entry): float64 and float32 1e-5, float16 2e-3,
/// bfloat16 1e-2; lse 1e-5; remainder 1e-5. Early exit adds its epsilon to o and remainder. Where backend = cuda met
/// float16 or bfloat16 keys, weights were rounded to that type for the tensor cores: then o has the looser bound of
/// that type and its output's, and lse and remainder have 1e-3.
/// @throws Error(kBadInput): a file missing or damaged, an output that is not complete or was not made by `run`, shapes
/// that do not match the input's.
VerifyReport verify(const VerifyRequest& request, FileAccess& access);

/// A table for people, and, where it failed, the worst rows of each dataset over its bound.
std::string summarize(const VerifyReport& report);

/// One JSON object.
std::string to_json(const VerifyReport& report);

}  // namespace ringscan
