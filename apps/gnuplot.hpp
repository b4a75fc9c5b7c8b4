#pragma once
// Pictures are drawn by gnuplot, a program of its own.

#include <functional>
#include <string>

namespace ringscan {

/// @throws Error(kBadInput) where this machine has no gnuplot.
void require_gnuplot();

/// Draws the PNG at `path`, whole or not at all; `script_for` gives gnuplot's commands for a file of another name.
/// @throws Error(kFailure).
void draw_with_gnuplot(const std::function<std::string(const std::string&)>& script_for, const std::string& path);

}  // namespace ringscan
