#pragma once
// Internal to src/io: HDF5 identifiers with an owner, calls that are checked, and the lock under which they happen.

#include <hdf5.h>

#include <mutex>
#include <source_location>
#include <string>
#include <string_view>
#include <utility>

#include "core/error.hpp"

namespace ringscan {

/// Must be held around every HDF5 call, closing included: the library is not thread safe. While held, HDF5 prints
/// nothing of its own. Never held across a collective of a RankGroup: thread ranks would wait for each other.
class Hdf5Lock {
 public:
  Hdf5Lock();
  ~Hdf5Lock();
  Hdf5Lock(const Hdf5Lock&) = delete;
  Hdf5Lock& operator=(const Hdf5Lock&) = delete;

 private:
  std::unique_lock<std::mutex> lock_;
  H5E_auto2_t print_ = nullptr;
  void* print_data_ = nullptr;
};

/// Owns an identifier; closes it with `Close`. Move-only.
template <herr_t (*Close)(hid_t)>
class Hdf5Handle {
 public:
  Hdf5Handle() = default;
  explicit Hdf5Handle(hid_t id) : id_(id) {}
  Hdf5Handle(Hdf5Handle&& other) noexcept : id_(other.release()) {}
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept {
    Hdf5Handle moved(std::move(other));
    std::swap(id_, moved.id_);
    return *this;
  }
  ~Hdf5Handle() { close(); }

  hid_t get() const { return id_; }
  bool is_open() const { return id_ >= 0; }
  hid_t release() { return std::exchange(id_, H5I_INVALID_HID); }
  /// What closing said; 0 where nothing was open.
  herr_t close() {
    const hid_t id = release();
    return id >= 0 ? Close(id) : 0;
  }

 private:
  hid_t id_ = H5I_INVALID_HID;
};

using Hdf5File = Hdf5Handle<H5Fclose>;
using Hdf5Object = Hdf5Handle<H5Oclose>;
using Hdf5Dataset = Hdf5Handle<H5Dclose>;
using Hdf5Space = Hdf5Handle<H5Sclose>;
using Hdf5Type = Hdf5Handle<H5Tclose>;
using Hdf5Attribute = Hdf5Handle<H5Aclose>;
using Hdf5Properties = Hdf5Handle<H5Pclose>;

/// The error that a failing call becomes: "SUBJECT: PROBLEM (HDF5: what it says)".
struct Hdf5Blame {
  ExitCode code = ExitCode::kFailure;
  std::string_view subject = "HDF5";
  std::string_view problem = "call failed";
};

[[noreturn]] void throw_hdf5_error(const Hdf5Blame& blame, const std::source_location& where);

/// `result` of an HDF5 call, all of which return something negative where they fail.
/// @throws Error as `blame` has it; what is no fault of the input names the line here, too.
template <typename Result>
Result checked(Result result, const Hdf5Blame& blame = {},
               const std::source_location& where = std::source_location::current()) {
  if (result < 0) throw_hdf5_error(blame, where);
  return result;
}

}  // namespace ringscan
