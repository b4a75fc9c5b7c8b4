#include <cmath>
#include <sstream>
#include <string>

#include "apps/progress.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

struct Fixture {
  std::ostringstream out;
  double now = 1000.0;

  /// What was shown since the last call.
  std::string take() {
    const std::string text = out.str();
    out.str("");
    return text;
  }
  Progress make(ProgressMode mode, bool is_root, bool is_terminal) {
    return Progress(mode, is_root, out, is_terminal, [this] { return now; });
  }
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("A bar with an estimate on a terminal") {
  Fixture f;
  Progress progress = f.make(ProgressMode::kAuto, true, true);
  progress.update(0.0, "reading");
  REQUIRE(f.take() == "\r[..............................]   0 %  elapsed 0:00, left -:--  reading");
  f.now += 0.05;
  progress.update(0.1, "reading");
  REQUIRE(f.take().empty());  // too soon
  f.now += 29.95;
  progress.update(0.25, "computing");
  REQUIRE(f.take() == "\r[#######.......................]  25 %  elapsed 0:30, left 1:30  computing");
  f.now += 3630.0;
  progress.update(0.999, "io");
  const std::string padded = f.take();
  REQUIRE(contains(padded, " 99 %  elapsed 1:01:00, left 0:04  io"));
  progress.update(2.0, "done");
  f.take();
  progress.finish();
  REQUIRE(contains(f.take(), "100 %  elapsed 1:01:00  done"));
  progress.finish();
  progress.update(0.5, "again");
  REQUIRE(f.take().empty());
}

TEST_CASE("A shorter bar hides the longer one before") {
  Fixture f;
  Progress progress = f.make(ProgressMode::kAuto, true, true);
  progress.update(0.5, "a long phase");
  const std::size_t longer = f.take().size();
  progress.update(0.5, "short");
  REQUIRE(f.take().size() == longer);
}

TEST_CASE("Lines in a log, ten seconds apart") {
  Fixture f;
  Progress progress = f.make(ProgressMode::kAuto, true, false);
  progress.update(0.1, "computing");
  f.now += 9.9;
  progress.update(0.2, "computing");
  REQUIRE(f.take().empty());
  f.now += 0.1;
  progress.update(0.2, "computing");
  REQUIRE(f.take() == "ringscan:  20 %, elapsed 0:10, left 0:40, computing\n");
  f.now += 5.0;
  progress.update(0.3, "writing");
  REQUIRE(f.take().empty());
  progress.finish();
  REQUIRE(f.take().empty());
}

TEST_CASE("on: a bar even where there is no terminal") {
  Fixture f;
  {
    Progress progress = f.make(ProgressMode::kOn, true, false);
    progress.update(0.5, "computing");
    REQUIRE(contains(f.take(), "\r[###############...............]  50 %"));
  }
  REQUIRE(f.take().back() == '\n');  // ended when it goes
}

TEST_CASE("Nothing when off, or on another rank") {
  Fixture f;
  for (const bool is_terminal : {false, true}) {
    Progress off = f.make(ProgressMode::kOff, true, is_terminal);
    Progress other_rank = f.make(ProgressMode::kOn, false, is_terminal);
    for (int i = 0; i < 100; ++i) {
      f.now += 1.0;
      off.update(0.01 * i, "computing");
      other_rank.update(0.01 * i, "computing");
    }
    off.finish();
    other_rank.finish();
  }
  REQUIRE(f.take().empty());
}

TEST_CASE("A fraction that is no number is nothing done") {
  Fixture f;
  Progress progress = f.make(ProgressMode::kOn, true, false);
  progress.update(std::nan(""), "computing");
  REQUIRE(contains(f.take(), "  0 %"));
}
