// Each kind of bad input: one line that says what is wrong and where, on all ranks, and nobody hangs.
#include <filesystem>
#include <fstream>
#include <limits>

#include "tests/io/foreign_file.hpp"
#include "tests/io/sample_data.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using namespace ringscan::test;

namespace {

std::string open_message(RankContext& context, const std::string& path) {
  return collective_message(context, ExitCode::kBadInput, [&] { ActivationReader reader(context.access, path); });
}

/// Of a function that all ranks call, but not collectively.
std::string message_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    expect(error.code() == ExitCode::kBadInput, std::string("exit code of: ") + error.what());
    return error.what();
  }
  return "no error";
}

std::string read_message(RankContext& context, const ForeignDataset& dataset) {
  const std::string path = context.file("bad.h5");
  context.once([&] {
    std::remove(path.c_str());
    add_foreign_dataset(path, dataset);
  });
  ActivationReader reader(context.access, path);
  const DatasetInfo info = reader.require("", "q", dataset.shape);
  const SequenceLayout layout(LayoutKind::kZigzag, dataset.shape[1], context.world_size(), 1);
  const SlabSelection shard = shard_of(layout, context.rank(), all_heads(dataset.shape[2]));
  reader.read_slab(info, shard, false, nullptr);  // taken where it is allowed
  return collective_message(context, ExitCode::kBadInput, [&] { reader.read_slab(info, shard, true, nullptr); });
}

}  // namespace

TEST_CASE("what is no HDF5 file is refused") {
  on_ranks([](RankContext& context) {
    const std::string path = context.file("in.h5");
    expect_equal(open_message(context, path), path + ": no such file");
    expect_equal(open_message(context, ""), "the input's file name is empty");
    expect_equal(open_message(context, context.folder),
                 context.folder + ": not a regular file, an HDF5 file is wanted");
    context.once([&] { std::ofstream{path}; });
    expect_equal(open_message(context, path), path + ": not an HDF5 file");
    context.once([&] { std::ofstream{path} << std::string(5000, 'x'); });
    expect_equal(open_message(context, path), path + ": not an HDF5 file");
  });
}

TEST_CASE("truncated files are refused when opened") {
  on_ranks([](RankContext& context) {
    const std::string whole = context.file("whole.h5"), path = context.file("cut.h5");
    write_sample_file(context, whole, "0", "q", ElementType::kBfloat16, {1, 100, 4, 8});
    const std::uintmax_t bytes = std::filesystem::file_size(whole);
    for (const std::uintmax_t left : {bytes - 1, bytes / 2, std::uintmax_t{600}, std::uintmax_t{20}}) {
      context.once([&] {
        std::filesystem::copy_file(whole, path, std::filesystem::copy_options::overwrite_existing);
        std::filesystem::resize_file(path, left);
      });
      const std::string message = open_message(context, path);
      expect(message.starts_with(path + ": truncated or damaged (HDF5: "), message);
    }
  });
}

TEST_CASE("damage behind the structure is found when read") {
  on_ranks([](RankContext& context) {
    const std::string path = context.file("spoilt.h5");
    context.once([&] {
      add_foreign_dataset(path, {.path = "/layers/0/q", .chunk = {1, 13, 3, 4}, .gzip_level = 6});
      const auto [offset, bytes] = find_data(path, "/layers/0/q");
      spoil(path, offset, bytes);
    });
    ActivationReader reader(context.access, path);
    const DatasetInfo info = reader.require("0", "q", {2, 13, 3, 4});
    const SequenceLayout layout(LayoutKind::kContiguous, 13, context.world_size(), 13);  // all tokens on one rank
    const SlabSelection shard = shard_of(layout, context.rank(), all_heads(3));
    const std::string message =
        collective_message(context, ExitCode::kBadInput, [&] { reader.read_slab(info, shard, true, nullptr); });
    expect(message.starts_with(path + ": dataset /layers/0/q: truncated or damaged (HDF5: "), message);
  });
}

TEST_CASE("a damaged structure is refused when opened") {
  on_ranks([](RankContext& context) {
    const std::string path = context.file("spoilt.h5");
    context.once([&] {
      add_foreign_dataset(path, {.path = "/layers/0/q"});
      spoil(path, 96, 600);  // the root group, behind the superblock
    });
    const std::string message = open_message(context, path);
    expect(message.starts_with(path + ": truncated or damaged (HDF5: "), message);
  });
}

TEST_CASE("missing datasets, wrong shapes and types name what is wanted") {
  on_ranks([](RankContext& context) {
    const std::string path = context.file("in.h5");
    context.once([&] {
      add_non_floats(path);
      add_foreign_dataset(path, {.path = "/layers/0/q", .shape = {1, 5, 2, 3}});
    });
    ActivationReader reader(context.access, path);
    const std::string at = path + ": dataset /layers/0/";
    const auto require = [&](const std::string& dataset, const std::vector<std::int64_t>& want) {
      return message_of([&] { reader.require("0", dataset, want); });
    };
    expect_equal(require("x", {-1, 5, 2, 3}), at + "x is missing, wanted with shape [any, 5, 2, 3]");
    expect_equal(require("q", {-1, 6, 2, 3}), at + "q: shape [1, 5, 2, 3] found, [any, 6, 2, 3] wanted");
    expect_equal(require("q", {-1, -1, 2}), at + "q: shape [1, 5, 2, 3] found, [any, any, 2] wanted");
    const std::string floats = " found, float64, float32, float16 or bfloat16 wanted";
    expect_equal(require("k", {-1, -1, -1, -1}), at + "k: 64-bit integer" + floats);
    expect_equal(require("v", {-1, -1, -1, -1}), at + "v: unsigned 8-bit integer" + floats);
    expect_equal(require("note", {}), at + "note: text" + floats);
    expect_equal(require("log_decay", {-1}), at + "log_decay: 128-bit float of another layout" + floats);
    expect_equal(message_of([&] { reader.find("0", "k"); }), at + "k: 64-bit integer" + floats);
    expect(reader.datasets().size() == 5, "all are listed");
  });
}

TEST_CASE("NaN and infinity are found, the first in the file on whichever rank") {
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  on_ranks([&](RankContext& context) {
    const std::string at = context.file("bad.h5") + ": dataset /q: ";
    const std::string wanted = ", finite numbers wanted (--allow-nonfinite takes it)";
    // Index ((1 * 13 + 12) * 3 + 2) * 4 + 3 is the last; 12 * 12 is token 12 of the first batch item.
    for (const ElementType type : {ElementType::kFloat64, ElementType::kFloat16, ElementType::kBfloat16}) {
      expect_equal(read_message(context, {.type = type, .except = {{311, nan}}}),
                   at + "NaN found at [batch, token, head, dim] = [1, 12, 2, 3]" + wanted);
    }
    expect_equal(read_message(context, {.is_big_endian = true, .except = {{311, nan}, {150, -infinity}}}),
                 at + "infinity found at [batch, token, head, dim] = [0, 12, 1, 2]" + wanted);
    expect_equal(read_message(context, {.type = ElementType::kFloat64, .except = {{160, 1e300}, {311, nan}}}),
                 at + "a number too large for float32 found at [batch, token, head, dim] = [1, 0, 1, 0]" + wanted);
    expect_equal(read_message(context, {.shape = {1, 9, 4}, .except = {{35, nan}}}),
                 at + "NaN found at [batch, token, head] = [0, 8, 3]" + wanted);
  });
}

TEST_CASE("an error on one rank is one on all, and the file stays usable") {
  on_ranks([](RankContext& context) {
    const std::string path = context.file("in.h5");
    write_sample_file(context, path, "0", "q", ElementType::kFloat32, {1, 8, 2, 3});
    ActivationReader reader(context.access, path);
    const DatasetInfo info = reader.require("0", "q", {1, 8, 2, 3});
    const bool is_last = context.rank() == context.world_size() - 1;
    const SlabSelection good{{{0, 8}}, {0, 1}}, bad{{{0, 9}}, {0, 1}};
    const std::string message = collective_message(
        context, ExitCode::kFailure, [&] { reader.read_slab(info, is_last ? bad : good, true, nullptr); });
    expect_equal(message, path + ": dataset /layers/0/q: cannot select tokens [0, 9) of 8, in ascending order");
    expect_sample(reader.read_slab(info, good, true, nullptr), info.shape, good, info.type, "after the error");
  });
}
