// Quartiles, and the schema of Extra-P's JSON lines.

#include <nlohmann/json.hpp>

#include "apps/measurement.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

TEST_CASE("Quartiles lie between the sorted values") {
  const Quartiles of_five = quartiles({5, 1, 4, 2, 3});
  REQUIRE(of_five.first == 2.0);
  REQUIRE(of_five.median == 3.0);
  REQUIRE(of_five.third == 4.0);
  const Quartiles of_two = quartiles({1, 3});
  REQUIRE(of_two.first == 1.5);
  REQUIRE(of_two.median == 2.0);
  REQUIRE(quartiles({7}).third == 7.0);
}

TEST_CASE("What is short is repeated for a quarter of a second, what is long as often as was asked for") {
  REQUIRE(repetitions_of(0.01, 5) == 25);
  REQUIRE(repetitions_of(2.0, 5) == 5);
  REQUIRE(repetitions_of(0.0, 5) == 50);
  REQUIRE(repetitions_of(1e-9, 60) == 60);
}

TEST_CASE("A line has what Extra-P's JSON lines reader takes, and no more") {
  const std::string text = extrap_line({{"ranks", 4}, {"seq_len", 1048576}}, "strong->softmax", "seconds", 0.125);
  REQUIRE(text.back() == '\n');
  REQUIRE(text.find('\n') == text.size() - 1);
  const auto line = nlohmann::json::parse(text);
  REQUIRE(line.is_object());
  REQUIRE(line.size() == 4);
  REQUIRE(line.at("params").is_object());
  for (const auto& value : line.at("params")) REQUIRE(value.is_number());
  REQUIRE(line.at("params").at("ranks") == 4);
  REQUIRE(line.at("params").at("seq_len") == 1048576);
  REQUIRE(line.at("callpath") == "strong->softmax");
  REQUIRE(line.at("metric") == "seconds");
  REQUIRE(line.at("value") == 0.125);
}
