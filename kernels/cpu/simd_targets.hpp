#pragma once
// Which instruction sets are compiled. Scalable vectors (SVE) cannot stand in arrays of accumulators, and machines that
// have them have NEON; SSSE3 without SSE4 is not worth its code.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_SSSE3)
