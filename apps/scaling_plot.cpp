#include "apps/scaling_plot.hpp"

#include <algorithm>
#include <sstream>

#include "apps/gnuplot.hpp"

namespace ringscan {
namespace {

std::string escaped(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    if (c == '"' || c == '\\' || c == '`') safe += '\\';
    safe += c == '\n' ? ' ' : c;
  }
  return safe;
}

std::string curve_of(const ScalingFigures& point) {
  return point.mechanism + ", " + std::to_string(point.seq_len);
}

std::vector<std::string> curves_of(const std::vector<ScalingFigures>& figures) {
  std::vector<std::string> curves;
  for (const ScalingFigures& point : figures) {
    if (std::find(curves.begin(), curves.end(), curve_of(point)) == curves.end()) curves.push_back(curve_of(point));
  }
  return curves;
}

/// A block of data a curve: ranks, efficiency, share hidden.
void write_curves(const std::vector<ScalingFigures>& figures, const std::vector<std::string>& curves,
                  std::ostream& out) {
  for (std::size_t i = 0; i < curves.size(); ++i) {
    out << "$curve" << i << " << EOD\n";
    for (const ScalingFigures& point : figures) {
      if (curve_of(point) != curves[i]) continue;
      out << point.ranks << " " << point.efficiency << " " << 1.0 - point.exposed_seconds / point.seconds << "\n";
    }
    out << "EOD\n";
  }
}

/// The slowest ranks of the phases need not be the same one, so that the sum may be over the whole.
void write_phases(const std::vector<ScalingFigures>& figures, std::ostream& out) {
  out << "$phases << EOD\n";
  for (const ScalingFigures& point : figures) {
    out << "\"" << escaped(curve_of(point)) << " x " << point.ranks << "\" " << point.compute_seconds << " "
        << point.exposed_seconds << " " << point.finish_seconds << "\n";
  }
  out << "EOD\n";
}

void plot_curves(const std::vector<std::string>& curves, int column, std::ostream& out) {
  out << "plot ";
  for (std::size_t i = 0; i < curves.size(); ++i) {
    out << (i > 0 ? ", " : "") << "$curve" << i << " using 1:" << column << " with linespoints lw 2 pt " << i + 4
        << " title \"" << escaped(curves[i]) << "\"";
  }
  out << "\n";
}

}  // namespace

std::string scaling_plot_script(const std::string& study, const std::vector<ScalingFigures>& figures,
                                const std::string& path) {
  const std::vector<std::string> curves = curves_of(figures);
  std::ostringstream out;
  write_curves(figures, curves, out);
  write_phases(figures, out);
  const std::size_t width = std::max<std::size_t>(1200, 26 * figures.size());
  out << "set terminal pngcairo size " << width << ",1000 font \"sans,12\" noenhanced\n"
      << "set output \"" << escaped(path) << "\"\n"
      << "set multiplot title \"" << (study == "weak" ? "Weak" : "Strong") << " scaling\" font \",15\"\n"
      << "set grid\nset logscale x 2\nset xlabel \"ranks\"\nset key bottom left\n"
      << "set origin 0,0.5\nset size 0.5,0.46\nset yrange [0:1.1]\nset title \""
      << (study == "weak" ? "Efficiency: rate a rank, by that of the fewest ranks"
                          : "Efficiency: rank seconds of the fewest ranks, by these")
      << "\"\n";
  plot_curves(curves, 2, out);
  out << "set origin 0.5,0.5\nset title \"Overlap: share of the time without exposed communication\"\n";
  plot_curves(curves, 3, out);
  out << "set origin 0,0\nset size 1,0.5\nunset logscale x\nset xlabel \"\"\nset yrange [*:*]\nset logscale y\n"
      << "set title \"Time by phase, slowest rank of each\"\nset ylabel \"seconds\"\nset key outside top right "
         "horizontal\nset format y \"%g\"\n"
      << "set style data histograms\nset style histogram clustered gap 1\nset style fill solid 0.8\n"
      << "set xtics rotate by -50 font \",9\"\n"
      << "plot $phases using 2:xtic(1) title \"compute\", '' using 3 title \"exposed communication\", '' using 4 title "
         "\"finish\"\n"
      << "unset multiplot\nset output\n";
  return out.str();
}

void draw_scaling_plot(const std::string& study, const std::vector<ScalingFigures>& figures, const std::string& path) {
  draw_with_gnuplot([&](const std::string& partial) { return scaling_plot_script(study, figures, partial); }, path);
}

}  // namespace ringscan
