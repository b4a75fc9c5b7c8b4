#include "apps/plan_plot.hpp"

#include <algorithm>
#include <set>
#include <sstream>

namespace ringscan {
namespace {

std::string tokens_text(std::int64_t tokens) {
  if (tokens % (1 << 20) == 0) return std::to_string(tokens >> 20) + "M";
  if (tokens % 1024 == 0) return std::to_string(tokens >> 10) + "K";
  return std::to_string(tokens);
}

void write_shares(const std::vector<PlanPoint>& points, std::int64_t seq_len, std::ostream& out) {
  out << "$shares << EOD\n";
  for (const PlanPoint& point : points) {
    if (point.seq_len != seq_len || !point.fits) continue;
    const Prediction::Shares& s = point.prediction.shares;
    out << point.world;
    for (const double share : {s.useful, s.crowding, s.small, s.sharing, s.exposed, s.finish, s.idle, s.files}) {
      out << " " << 100.0 * share;
    }
    out << "\n";
  }
  out << "EOD\n";
}

void plot_curves(const std::vector<std::int64_t>& curves, int column, std::ostream& out) {
  out << "plot ";
  for (std::size_t i = 0; i < curves.size(); ++i) {
    out << (i > 0 ? ", " : "") << "$curve" << i << " using 1:" << column << " with linespoints lw 2 pt " << i + 4
        << " title \"" << tokens_text(curves[i]) << " tokens\"";
  }
  if (column == 3) out << ", 0.8 with lines dt 2 lc rgb \"gray50\" title \"80 %\"";
  out << "\n";
}

}  // namespace

std::string plan_plot_script(const std::vector<PlanPoint>& points, const std::string& title, const std::string& path) {
  std::set<std::int64_t> found;
  for (const PlanPoint& point : points) {
    if (point.fits) found.insert(point.seq_len);
  }
  const std::vector<std::int64_t> curves(found.begin(), found.end());
  std::ostringstream out;
  for (std::size_t i = 0; i < curves.size(); ++i) {
    out << "$curve" << i << " << EOD\n";
    for (const PlanPoint& point : points) {
      if (point.seq_len != curves[i] || !point.fits) continue;
      out << point.world << " " << point.prediction.seconds << " " << point.efficiency << "\n";
    }
    out << "EOD\n";
  }
  write_shares(points, curves.back(), out);
  out << "set terminal pngcairo size 1200,1000 font \"sans,12\" noenhanced\nset output \"" << path << "\"\n"
      << "set multiplot title \"Predicted: " << title << "\" font \",14\"\nset grid\nset logscale x 2\n"
      << "set xlabel \"ranks\"\nset key bottom left\nset origin 0,0.5\nset size 0.5,0.46\nset logscale y\n"
      << "set format y \"%g\"\nset title \"Seconds a layer\"\n";
  plot_curves(curves, 2, out);
  out << "unset logscale y\nset origin 0.5,0.5\nset yrange [0:1.1]\n"
      << "set title \"Efficiency: rank seconds of the fewest ranks, by these\"\n";
  plot_curves(curves, 3, out);
  out << "set origin 0,0\nset size 1,0.5\nunset logscale x\nset yrange [0:100]\nset ylabel \"% of rank seconds\"\n"
      << "set title \"Where the time goes, " << tokens_text(curves.back()) << " tokens\"\n"
      << "set key outside right top vertical\nset style data histograms\nset style histogram rowstacked\n"
      << "set style fill solid 0.8\nset boxwidth 0.8\n"
      << "plot $shares using 2:xtic(1) title \"useful\"";
  const char* names[] = {"crowded nodes", "calls and rows", "shared cores", "exposed", "finish", "idle", "files"};
  for (int i = 0; i < 7; ++i) out << ", '' using " << i + 3 << " title \"" << names[i] << "\"";
  out << "\n"
      << "unset multiplot\nset output\n";
  return out.str();
}

}  // namespace ringscan
