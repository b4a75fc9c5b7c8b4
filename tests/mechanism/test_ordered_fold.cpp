#include "mechanism/ordered_fold.hpp"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

/// Text stands for a partial result: joining is putting it together in the order of the keys, which does not commute.
using TextFold = OrderedFold<std::string>;

void join_text(std::string& near, const std::string& far) {
  near = far + near;
}

std::string text_of(const TokenRun& keys) {
  std::string text;
  for (std::int64_t key = keys.begin; key < keys.end; ++key) text += static_cast<char>('a' + key);
  return text;
}

/// [0, end) cut into runs.
std::vector<TokenRun> cut(const std::vector<std::int64_t>& ends) {
  std::vector<TokenRun> runs;
  std::int64_t begin = 0;
  for (const std::int64_t end : ends) {
    runs.push_back({begin, end});
    begin = end;
  }
  return runs;
}

/// Ascending, apart, and each the text of its keys.
bool is_in_order(const TextFold& fold) {
  std::int64_t end = -1;
  for (const TextFold::Part& part : fold.parts()) {
    if (part.keys.empty() || part.keys.begin <= end || part.partial != text_of(part.keys)) return false;
    end = part.keys.end;
  }
  return true;
}

}  // namespace

TEST_CASE("Runs that arrive in any order are joined in the order of their keys", "[ordered_fold]") {
  std::vector<TokenRun> runs = cut({1, 3, 4, 8, 9, 14});
  std::vector<int> order = {0, 1, 2, 3, 4, 5};
  int wrong = 0;
  do {
    TextFold fold;
    for (const int index : order) {
      const TokenRun& keys = runs[static_cast<std::size_t>(index)];
      fold.add(keys, text_of(keys), join_text);
      wrong += is_in_order(fold) ? 0 : 1;
    }
    const bool is_whole = fold.parts().size() == 1 && fold.parts()[0].keys == TokenRun{0, 14};
    wrong += is_whole ? 0 : 1;
  } while (std::next_permutation(order.begin(), order.end()));
  REQUIRE(wrong == 0);
}

TEST_CASE("Keys taken in place by the nearer part, or added, come to the same", "[ordered_fold]") {
  std::vector<TokenRun> runs = cut({2, 3, 7, 8, 11, 12, 15});
  std::mt19937 random(7);
  int wrong = 0;
  int taken_in_place = 0;
  for (int trial = 0; trial < 500; ++trial) {
    std::shuffle(runs.begin(), runs.end(), random);
    TextFold fold;
    for (const TokenRun& keys : runs) {
      TextFold::Part* nearer = fold.nearer_neighbour(keys);
      if (nearer != nullptr) {
        ++taken_in_place;
        join_text(nearer->partial, text_of(keys));
        fold.extend(nearer, keys, join_text);
      } else {
        fold.add(keys, text_of(keys), join_text);
      }
      wrong += is_in_order(fold) ? 0 : 1;
    }
    wrong += fold.parts().size() == 1 && fold.parts()[0].partial == text_of({0, 15}) ? 0 : 1;
  }
  REQUIRE(wrong == 0);
  REQUIRE(taken_in_place > 0);
}

TEST_CASE("Runs that do not touch stay apart", "[ordered_fold]") {
  TextFold fold;
  fold.add({8, 10}, "ij", join_text);
  fold.add({0, 2}, "ab", join_text);
  fold.add({4, 5}, "e", join_text);
  REQUIRE(fold.parts().size() == 3);
  REQUIRE(fold.parts().back().keys == TokenRun{8, 10});
  REQUIRE(fold.nearer_neighbour({3, 4})->partial == "e");
  REQUIRE(fold.nearer_neighbour({2, 3}) == nullptr);
  fold.add({2, 4}, "cd", join_text);
  REQUIRE(fold.parts().size() == 2);
  REQUIRE(fold.parts()[0].partial == "abcde");
}

TEST_CASE("Partial results that can only be moved will do", "[ordered_fold]") {
  OrderedFold<std::unique_ptr<int>> fold;
  const auto add_up = [](std::unique_ptr<int>& near, const std::unique_ptr<int>& far) { *near += *far; };
  fold.add({0, 1}, std::make_unique<int>(1), add_up);
  fold.add({2, 3}, std::make_unique<int>(20), add_up);
  fold.add({1, 2}, std::make_unique<int>(300), add_up);
  REQUIRE(fold.parts().size() == 1);
  REQUIRE(*fold.parts()[0].partial == 321);
}
