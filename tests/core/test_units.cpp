// Numbers for people.
#include "core/units.hpp"

#include <string>
#include <vector>

#include "tests/support/catch.hpp"

using namespace ringscan;

TEST_CASE("runs of numbers are named by their ends") {
  CHECK(human_ranges(std::vector<int>{}) == "none");
  CHECK(human_ranges(std::vector<int>{4}) == "4");
  CHECK(human_ranges(std::vector<int>{0, 1, 2, 3, 8}) == "0-3,8");
  CHECK(human_ranges(std::vector<int>{1, 3, 4, 7}) == "1,3-4,7");
}

TEST_CASE("text of any length is printed whole") {
  const std::string name(1000, 'x');
  CHECK(printed("%s: %d, %.2f", name.c_str(), 7, 0.5) == name + ": 7, 0.50");
  CHECK(printed("%s", "").empty());
}

TEST_CASE("bytes and seconds in the unit that suits them") {
  CHECK(human_bytes(512) == "512 B");
  CHECK(human_bytes(std::size_t{3} << 29) == "1.5 GiB");
  CHECK(human_seconds(0.45) == "0.450 s");
  CHECK(human_seconds(12.34) == "12.3 s");
  CHECK(human_seconds(245.0) == "4 min 05 s");
  CHECK(human_seconds(7380.0) == "2 h 03 min");
}
