// Files of other programs: any chunks, filters, byte orders, links and attributes.
#include "tests/io/foreign_file.hpp"
#include "tests/io/sample_data.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using namespace ringscan::test;

namespace {

void expect_read(RankContext& context, const ForeignDataset& dataset, const std::string& what) {
  const std::string path = context.file("foreign.h5");
  context.once([&] {
    std::remove(path.c_str());
    add_foreign_dataset(path, dataset);
  });
  ActivationReader reader(context.access, path);
  const DatasetInfo info = reader.require("", dataset.path.substr(1), dataset.shape);
  expect(info.type == dataset.type, what + ": type");
  expect(info.is_chunked == !dataset.chunk.empty(), what + ": chunks");
  const SequenceLayout layout(LayoutKind::kZigzag, dataset.shape[1], context.world_size(), 2);
  const SlabSelection shard = shard_of(layout, context.rank(), {0, 2});
  const Buffer slab = reader.read_slab(info, shard, true, nullptr);
  expect_sample(slab, dataset.shape, shard, type_in_memory(dataset.type), what);
  // A filter is HDF5's business chunk by chunk; nothing else may cost the collective transfer.
  if (context.access.is_parallel() && dataset.gzip_level == 0) {
    expect(reader.record().not_collective == 0, what + ": collective");
  }
  const std::vector<double> whole = reader.read_whole(info);
  expect(whole.back() == sample_value(count_of(dataset.shape) - 1), what + ": the whole");
  const std::vector<double> head = reader.read_head(info, 0, {2, 3}, 1);
  expect(head[0] == sample_value((2 * 3 + 1) * 4), what + ": one head");
}

}  // namespace

TEST_CASE("chunks of any shape, filters and foreign byte order are read") {
  on_ranks([](RankContext& context) {
    for (const ElementType type :
         {ElementType::kFloat64, ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16}) {
      const std::string name(name_of(type));
      expect_read(context, {.type = type, .is_big_endian = true}, name + ", big-endian");
      expect_read(context, {.type = type, .chunk = {1, 4, 2, 3}}, name + ", chunked");
      expect_read(context, {.type = type, .is_big_endian = true, .chunk = {2, 5, 1, 4}, .gzip_level = 4},
                  name + ", big-endian, chunked, gzip");
    }
  });
}

TEST_CASE("layers come in natural order and by glob, through links too") {
  on_ranks([](RankContext& context) {
    const std::string path = context.file("layers.h5");
    context.once([&] {
      for (const char* layer : {"10", "2", "02b", "1"}) {
        add_foreign_dataset(path, {.path = std::string("/layers/") + layer + "/q"});
      }
      add_foreign_dataset(path, {.path = "/tokens"});
      add_soft_link(path, "/layers/2/q", "/layers/11/q");
      add_soft_link(path, "/layers/nowhere", "/layers/12/q");
      add_soft_link(path, "/layers", "/layers/1/circle");
    });
    ActivationReader reader(context.access, path);
    expect(reader.layers() == std::vector<std::string>{"1", "2", "02b", "10", "11"}, "natural order");
    expect(reader.layers("1*") == std::vector<std::string>{"1", "10", "11"}, "glob");
    expect(reader.layers("[2]") == std::vector<std::string>{"2"}, "glob with a set");
    expect(reader.find("11", "q").has_value() && !reader.find("12", "q") && !reader.find("1", "k"), "links");
    const SlabSelection all{{{0, 13}}, all_heads(3)};
    const DatasetInfo linked = reader.require("11", "q", {-1, 13, -1, 4});
    expect_sample(reader.read_slab(linked, all, true, nullptr), linked.shape, all, ElementType::kFloat32, "linked");
    bool failed = false;
    try {
      reader.layers("x*");
    } catch (const Error& error) {
      failed = true;
      expect_equal(error.what(), path + ": no layer matches 'x*', found: 1, 2, 02b, 10, 11");
    }
    expect(failed, "no layer matches x*");
  });
}

TEST_CASE("datasets at the root are a layer without a name") {
  on_ranks([](RankContext& context) {
    const std::string path = context.file("root.h5");
    context.once([&] {
      add_foreign_dataset(path, {.path = "/q"});
      add_foreign_dataset(path, {.path = "/ssm/u"});
    });
    ActivationReader reader(context.access, path);
    expect(reader.layers() == std::vector<std::string>{""}, "one layer");
    expect(reader.require("", "q", {2, 13, 3, 4}).path == "/q", "path of q");
    expect(reader.require("", "ssm/u", {2, 13, 3, 4}).path == "/ssm/u", "path of ssm/u");
    expect(reader.datasets().size() == 2, "both datasets");
  });
}

TEST_CASE("attributes come back as text") {
  on_ranks([](RankContext& context) {
    const std::string path = context.file("attributes.h5");
    const std::string long_text(100000, 'x');
    {
      ActivationWriter writer(context.access, path, false);
      writer.set_attribute("config", std::string("a = 1\nb = \u00e4\n"));
      writer.set_attribute("empty", std::string());
      writer.set_attribute("long", long_text);
      writer.set_attribute("seconds", 0.1);
      writer.set_attribute("world_size", std::int64_t{1});
      writer.set_attribute("world_size", std::int64_t{context.world_size()});
      writer.create("0", "o", ElementType::kFloat32, {1, 2, 3, 4});
      writer.finish();
    }
    ActivationReader reader(context.access, path);
    const std::map<std::string, std::string> wanted{
        {"complete", "1"},  {"config", "a = 1\nb = \u00e4\n"},
        {"empty", ""},      {"long", long_text},
        {"seconds", "0.1"}, {"world_size", std::to_string(context.world_size())}};
    expect(reader.attributes() == wanted, "attributes");
  });
}
