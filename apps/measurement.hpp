#pragma once
// Repeated measurements: their quartiles, and the JSON lines that Extra-P reads.

#include <string>
#include <utility>
#include <vector>

namespace ringscan {

struct Quartiles {
  double first = 0.0;
  double median = 0.0;
  double third = 0.0;
};

/// Linear between the sorted values (type 7 of Hyndman and Fan 1996). @pre not empty.
Quartiles quartiles(std::vector<double> values);

/// Repetitions of something that takes so many seconds: a quarter of a second of them, at least `fewest` and at
/// most 50. Other processes take a processor for some milliseconds at a time; a median over less than that would be
/// theirs.
int repetitions_of(double seconds, int fewest);

/// The names and numbers of a measuring point, such as {"ranks", 4}.
using Parameters = std::vector<std::pair<std::string, double>>;

/// One line of Extra-P's JSON lines format, ending in a newline: an object of "params" (name -> number), "callpath",
/// "metric" and "value". Repetitions are lines of the same params. Numbers are finite.
std::string extrap_line(const Parameters& parameters, const std::string& callpath, const std::string& metric,
                        double value);

}  // namespace ringscan
