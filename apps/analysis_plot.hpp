#pragma once

#include <string>

#include "engine/analysis.hpp"

namespace ringscan {

/// What gnuplot is told: a PNG at `path` with one panel a measure, heads by layers.
std::string plot_script(const Analysis& analysis, const std::string& path);

/// @throws Error(kFailure) where gnuplot fails; then no file is left.
void draw_plot(const Analysis& analysis, const std::string& path);

}  // namespace ringscan
