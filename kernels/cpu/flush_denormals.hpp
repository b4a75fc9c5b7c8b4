#pragma once
// Denormal numbers cost a hundred cycles an operation on many processors and carry nothing here.

#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace ringscan::cpu {

/// While it lives, this thread takes denormals for zero and flushes them to zero.
class FlushDenormals {
 public:
  FlushDenormals() : saved_(get()) { set(saved_ | kFlush); }
  ~FlushDenormals() { set(saved_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(__SSE2__)
  using Register = std::uint32_t;
  static constexpr Register kFlush = 0x8040;  // FTZ, DAZ
  static Register get() {
    return _mm_getcsr();
  }
  static void set(Register value) {
    _mm_setcsr(value);
  }
#elif defined(__aarch64__)
  using Register = std::uint64_t;
  static constexpr Register kFlush = 1u << 24;  // FZ
  static Register get() {
    Register value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void set(Register value) {
    asm volatile("msr fpcr, %0" : : "r"(value));
  }
#else
  using Register = std::uint32_t;
  static constexpr Register kFlush = 0;
  static Register get() {
    return 0;
  }
  static void set(Register) {}
#endif

  Register saved_;
};

}  // namespace ringscan::cpu
