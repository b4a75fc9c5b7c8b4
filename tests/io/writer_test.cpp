// An output is there complete or not at all.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "io/output_path.hpp"
#include "io/report.hpp"
#include "tests/io/sample_data.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using namespace ringscan::test;

namespace {

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.push_back(entry.path().filename());
  return names;
}

std::string content_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// What a report's path is asked before anything is computed, here of an output.
void probe(RankContext& context, const std::string& path, bool overwrite) {
  run_collectively(context.group, [&] {
    if (context.rank() == 0) probe_partial_file(path, overwrite);
  });
}

std::string writer_message(RankContext& context, const std::string& path) {
  const std::string said =
      collective_message(context, ExitCode::kBadInput, [&] { ActivationWriter writer(context.access, path, false); });
  const std::string beforehand = collective_message(context, ExitCode::kBadInput, [&] { probe(context, path, false); });
  expect_equal(beforehand, said);
  return said;
}

}  // namespace

TEST_CASE("an abandoned output leaves nothing, an existing target as it was") {
  on_ranks([](RankContext& context) {
    const std::string path = context.file("out.h5");
    context.once([&] { std::ofstream{path} << "precious"; });
    for (const bool by_error : {false, true}) {
      try {
        ActivationWriter writer(context.access, path, true);
        const DatasetInfo info = writer.create("0", "o", ElementType::kFloat32, {1, 64, 2, 8});
        expect(std::filesystem::exists(partial_path(path)), "the partial file");
        const SlabSelection none{{}, all_heads(2)};
        writer.write_slab(info, none, nullptr);
        run_collectively(context.group, [&] {
          if (by_error && context.rank() == context.world_size() - 1) throw failure("made up");
        });
      } catch (const Error& error) {
        expect_equal(error.what(), "made up");
      }
      context.group.barrier();
      expect(names_in(context.folder) == std::vector<std::string>{"out.h5"}, "nothing else is left");
      expect_equal(content_of(path), "precious");
      context.group.barrier();
    }
  });
}

TEST_CASE("a target is replaced only where that is asked for, and only at the end") {
  on_ranks([](RankContext& context) {
    const std::string path = context.file("out.h5");
    probe(context, path, false);
    write_sample_file(context, path, "0", "o", ElementType::kFloat32, {1, 8, 2, 3});
    expect_equal(writer_message(context, path), path + ": exists already (--overwrite replaces it)");
    const std::string before = content_of(path);
    context.group.barrier();
    {
      probe(context, path, true);
      ActivationWriter writer(context.access, path, true);
      writer.create("1", "o", ElementType::kFloat16, {1, 8, 2, 3});
      expect(content_of(path) == before, "untouched until the end");
      context.group.barrier();
      writer.finish();
    }
    ActivationReader reader(context.access, path);
    expect(reader.layers() == std::vector<std::string>{"1"}, "replaced");
    expect(names_in(context.folder) == std::vector<std::string>{"out.h5"}, "nothing else is left");
  });
}

TEST_CASE("what a killed job left is taken over") {
  on_ranks([](RankContext& context) {
    const std::string path = context.file("out.h5");
    context.once([&] { std::ofstream{partial_path(path)} << std::string(100000, 'x'); });
    probe(context, path, false);
    write_sample_file(context, path, "0", "o", ElementType::kBfloat16, {1, 8, 2, 3});
    ActivationReader reader(context.access, path);
    expect(reader.attributes().at("complete") == "1", "complete");
    expect(names_in(context.folder) == std::vector<std::string>{"out.h5"}, "nothing else is left");
  });
}

TEST_CASE("a target that cannot be made is said so before anything is computed") {
  on_ranks([](RankContext& context) {
    context.once([&] {
      std::ofstream{context.file("file")} << "x";
      std::filesystem::create_directory(context.file("locked"));
      std::filesystem::permissions(context.file("locked"), std::filesystem::perms{0555});
    });
    const std::string missing = context.file("nowhere/out.h5");
    expect_equal(writer_message(context, missing),
                 missing + ": cannot be created in folder " + context.file("nowhere") + ": No such file or directory");
    const std::string inside = context.file("file/out.h5");
    expect_equal(writer_message(context, inside),
                 inside + ": cannot be created in folder " + context.file("file") + ": Not a directory");
    expect_equal(writer_message(context, context.folder),
                 context.folder + ": is a folder, the name of a file is wanted");
    expect_equal(writer_message(context, ""), "the output's file name is empty");
    if (geteuid() != 0) {  // root may write anywhere
      const std::string locked = context.file("locked/out.h5");
      expect_equal(writer_message(context, locked),
                   locked + ": cannot be created in folder " + context.file("locked") + ": Permission denied");
    }
  });
}

TEST_CASE("a finished output takes nothing more, and a name is given once") {
  on_ranks([](RankContext& context) {
    ActivationWriter writer(context.access, context.file("out.h5"), false);
    writer.create("0", "o", ElementType::kFloat32, {1, 8, 2, 3});
    const auto create = [&] { writer.create("0", "o", ElementType::kFloat32, {1, 8, 2, 3}); };
    expect_contains(collective_message(context, ExitCode::kFailure, create),
                    context.file("out.h5") + ": dataset /layers/0/o: cannot be created (HDF5: ");
    writer.finish();
    expect_equal(collective_message(context, ExitCode::kFailure, create),
                 context.file("out.h5") + ": is finished, nothing can be added");
  });
}

TEST_CASE("a report is written whole, and said where it cannot") {
  on_ranks([](RankContext& context) {
    const std::string path = context.file("report.json");
    write_json_file(context.group, path, "{\"old\": 1}");
    write_json_file(context.group, path, "{}");
    expect_equal(content_of(path), "{}\n");
    const std::string missing = context.file("nowhere/report.json");
    check_report_path(context.group, "");
    check_report_path(context.group, path);
    expect_equal(collective_message(context, ExitCode::kBadInput, [&] { check_report_path(context.group, missing); }),
                 missing + ": cannot be created in folder " + context.file("nowhere") + ": No such file or directory");
    expect_equal(
        collective_message(context, ExitCode::kFailure, [&] { write_json_file(context.group, missing, "{}"); }),
        missing + ": cannot be written: No such file or directory");
    expect(names_in(context.folder) == std::vector<std::string>{"report.json"}, "nothing else is left");
  });
}
