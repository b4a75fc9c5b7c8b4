#include "io/hdf5_attributes.hpp"

#include <charconv>
#include <cstring>
#include <vector>

#include "io/hdf5_types.hpp"

namespace ringscan {
namespace {

template <typename T>
std::string number_text(T number) {
  char text[64];
  const std::to_chars_result end = std::to_chars(text, text + sizeof text, number);
  return std::string(text, end.ptr);
}

std::string join(const std::vector<std::string>& items, bool is_scalar) {
  if (is_scalar && items.size() == 1) return items[0];
  std::string text = "[";
  for (const std::string& item : items) {
    if (text.size() > 1) text += ", ";
    text += item;
  }
  return text + "]";
}

template <typename T>
std::vector<std::string> read_numbers(hid_t attribute, hid_t memory_type, std::size_t count, const Hdf5Blame& blame) {
  std::vector<T> numbers(count);
  checked(H5Aread(attribute, memory_type, numbers.data()), blame);
  std::vector<std::string> items;
  for (const T number : numbers) items.push_back(number_text(number));
  return items;
}

std::vector<std::string> read_texts(hid_t attribute, hid_t type, hid_t space, std::size_t count,
                                    const Hdf5Blame& blame) {
  std::vector<std::string> items;
  if (checked(H5Tis_variable_str(type)) > 0) {
    std::vector<char*> texts(count, nullptr);
    checked(H5Aread(attribute, type, texts.data()), blame);
    for (const char* text : texts) items.emplace_back(text == nullptr ? "" : text);
    H5Dvlen_reclaim(type, space, H5P_DEFAULT, texts.data());
    return items;
  }
  const std::size_t width = H5Tget_size(type);
  std::vector<char> texts(count * width);
  checked(H5Aread(attribute, type, texts.data()), blame);
  for (std::size_t i = 0; i < count; ++i) {
    const char* text = texts.data() + i * width;
    std::size_t length = strnlen(text, width);
    if (H5Tget_strpad(type) == H5T_STR_SPACEPAD) {
      while (length > 0 && text[length - 1] == ' ') --length;
    }
    items.emplace_back(text, length);
  }
  return items;
}

std::string attribute_text(hid_t attribute, const Hdf5Blame& blame) {
  const Hdf5Type type(checked(H5Aget_type(attribute), blame));
  const Hdf5Space space(checked(H5Aget_space(attribute), blame));
  const auto count = static_cast<std::size_t>(checked(H5Sget_simple_extent_npoints(space.get()), blame));
  const bool is_scalar = H5Sget_simple_extent_type(space.get()) == H5S_SCALAR;
  if (count == 0) return "";
  switch (H5Tget_class(type.get())) {
    case H5T_STRING:
      return join(read_texts(attribute, type.get(), space.get(), count, blame), is_scalar);
    case H5T_INTEGER:
      if (H5Tget_sign(type.get()) == H5T_SGN_NONE) {
        return join(read_numbers<unsigned long long>(attribute, H5T_NATIVE_ULLONG, count, blame), is_scalar);
      }
      return join(read_numbers<long long>(attribute, H5T_NATIVE_LLONG, count, blame), is_scalar);
    case H5T_FLOAT:
      return join(read_numbers<double>(attribute, H5T_NATIVE_DOUBLE, count, blame), is_scalar);
    default:
      return describe_hdf5_type(type.get());
  }
}

void write_scalar(hid_t file, const std::string& name, hid_t type, const void* value) {
  const Hdf5Blame blame{ExitCode::kFailure, name, "attribute cannot be written"};
  if (checked(H5Aexists(file, name.c_str()), blame) > 0) checked(H5Adelete(file, name.c_str()), blame);
  const Hdf5Space space(checked(H5Screate(H5S_SCALAR)));
  Hdf5Attribute attribute(checked(H5Acreate2(file, name.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT), blame));
  checked(H5Awrite(attribute.get(), type, value), blame);
  checked(attribute.close(), blame);
}

}  // namespace

std::map<std::string, std::string> read_root_attributes(hid_t file, const std::string& file_path) {
  std::vector<std::string> names;
  const auto note_name = [](hid_t, const char* name, const H5A_info_t*, void* into) noexcept -> herr_t {
    static_cast<std::vector<std::string>*>(into)->emplace_back(name);
    return 0;
  };
  const Hdf5Blame blame{ExitCode::kBadInput, file_path, "truncated or damaged"};
  const Hdf5Object root(checked(H5Oopen(file, "/", H5P_DEFAULT), blame));
  checked(H5Aiterate2(root.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr, note_name, &names), blame);
  std::map<std::string, std::string> attributes;
  for (const std::string& name : names) {
    const Hdf5Attribute attribute(checked(H5Aopen(root.get(), name.c_str(), H5P_DEFAULT), blame));
    attributes[name] = attribute_text(attribute.get(), blame);
  }
  return attributes;
}

void write_root_attribute(hid_t file, const std::string& name, const std::string& text) {
  const Hdf5Type type(checked(H5Tcopy(H5T_C_S1)));
  checked(H5Tset_size(type.get(), H5T_VARIABLE));
  checked(H5Tset_cset(type.get(), H5T_CSET_UTF8));
  const char* value = text.c_str();
  write_scalar(file, name, type.get(), &value);
}

void write_root_attribute(hid_t file, const std::string& name, double number) {
  write_scalar(file, name, H5T_NATIVE_DOUBLE, &number);
}

void write_root_attribute(hid_t file, const std::string& name, std::int64_t number) {
  write_scalar(file, name, H5T_NATIVE_INT64, &number);
}

}  // namespace ringscan
