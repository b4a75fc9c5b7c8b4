// Reads /layers/0/q of a file and writes it again as each element type: the other half of h5py_interop_test.py.
#include <cstdio>

#include "io/activation_file.hpp"

using namespace ringscan;

namespace {

void copy_in_each_type(FileAccess& access, const std::string& input, const std::string& output) {
  ActivationReader reader(access, input);
  const DatasetInfo q = reader.require("0", "q", {-1, -1, -1, -1});
  SlabSelection all{{{0, q.shape[1]}}, {}};
  for (int head = 0; head < q.shape[2]; ++head) all.heads.push_back(head);
  const Buffer read = reader.read_slab(q, all, true, nullptr);
  const ElementType in_memory = type_in_memory(q.type);
  const std::size_t count = read.size_bytes() / size_of(in_memory);

  ActivationWriter writer(access, output, false);
  for (const ElementType type :
       {ElementType::kFloat64, ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16}) {
    Buffer converted(count * size_of(type));
    convert_elements(read.data(), in_memory, converted.data(), type, count);
    const DatasetInfo made = writer.create("0", std::string(name_of(type)), type, q.shape);
    writer.write_slab(made, all, converted.data());
  }
  for (const auto& [name, text] : reader.attributes()) writer.set_attribute("input " + name, text);
  writer.set_attribute("type", std::string(name_of(q.type)));
  writer.set_attribute("seconds", 0.25);
  writer.set_attribute("world_size", std::int64_t{3});
  writer.finish();
}

}  // namespace

int main(int argc, char* argv[]) {
  if (argc != 3) return 2;
  try {
    SoloGroup group;
    copy_in_each_type(*make_shared_file_access(group), argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
