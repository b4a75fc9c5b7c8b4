#pragma once

namespace ringscan {

/// What one thread reaches with nothing but fp32 fused multiply-adds in registers, in GFLOP/s, with the best
/// instruction set of this machine: the ceiling that kernel rates are held against. Takes about `seconds` of
/// the thread's processor time, in which the rate is given.
double measure_fma_peak_gflops(double seconds);

}  // namespace ringscan
