#pragma once

namespace ringscan {

/// Exponentials a second that one thread reaches with nothing but the selective scan's own decay factor e^x - 1 in
/// registers, with the best instruction set of this machine. Of the thread's processor time; takes about `seconds`.
double measure_exp_rate(double seconds);

}  // namespace ringscan
