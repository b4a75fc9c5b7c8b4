#include "apps/analysis_plot.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <sstream>
#include <vector>

#include "apps/gnuplot.hpp"
#include "core/units.hpp"

namespace ringscan {
namespace {

/// One panel: a figure of every head that has it.
struct Panel {
  std::string title;
  std::string colours;                  ///< gnuplot's: range and scale
  const char* label;                    ///< printf pattern of the numbers in the cells
  std::function<double(double)> place;  ///< of a value on the scale, 0 to 1
  std::function<double(const HeadFigures&)> value;
};

/// In a gnuplot string in double quotes, without enhanced text.
std::string escaped(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    if (c == '"' || c == '\\' || c == '`') safe += '\\';
    safe += c == '\n' ? ' ' : c;
  }
  return safe;
}

/// From 0 to 1.
constexpr const char* kShare = "unset logscale cb; set cbrange [0:1]; set cbtics 0.2; set format cb \"%.1f\"";

double place_of_share(double share) {
  return share;
}

void add_reach_panels(const Analysis& analysis, std::vector<Panel>& panels) {
  std::int64_t longest = 10;
  for (const LayerAnalysis& layer : analysis.layers) longest = std::max(longest, layer.shape.seq_len);
  const std::string colours =
      "set cbrange [1:" + std::to_string(longest) + "]; set logscale cb; set cbtics autofreq; set format cb \"%g\"";
  const auto place = [longest](double keys) { return std::log(std::max(keys, 1.0)) / std::log(double(longest)); };
  // The smallest epsilon: the others would look alike.
  const std::size_t last = analysis.request.epsilons.size() - 1;
  const std::string until = printed(": keys until the stick is under %.3g", analysis.request.epsilons[last]);
  panels.push_back({"Stick reach, median" + until, colours, "%.0f", place,
                    [last](const HeadFigures& head) { return static_cast<double>(head.reach[last].median); }});
  panels.push_back({"Stick reach, 99th percentile" + until, colours, "%.0f", place,
                    [last](const HeadFigures& head) { return static_cast<double>(head.reach[last].percentile_99); }});
}

std::vector<Panel> panels_of(const Analysis& analysis) {
  const AnalysisRequest& request = analysis.request;
  std::vector<Panel> panels;
  if (request.measures.recency) {
    panels.push_back({"Recency ratio: share of mass at most " + std::to_string(request.recency_window) + " keys back",
                      kShare, "%.2f", place_of_share, [](const HeadFigures& head) { return *head.recency_ratio; }});
  }
  if (request.measures.sign_balance) {
    panels.push_back({"Cog: share of mass with negative weights", kShare, "%.2f", place_of_share,
                      [](const HeadFigures& head) { return *head.cog_negative_share; }});
  }
  if (request.measures.reach) add_reach_panels(analysis, panels);
  if (request.measures.kept_mass) {
    const char* which = request.select == SparseSelect::kTopk ? "strongest" : "nearest";
    // The middle one, or n^0.7 where it is among them.
    const auto& exponents = request.exponents;
    const auto usual = std::find(exponents.begin(), exponents.end(), 0.7);
    const auto place = static_cast<std::size_t>(usual != exponents.end() ? usual - exponents.begin()
                                                                         : (exponents.end() - exponents.begin()) / 2);
    panels.push_back({printed("Kept mass: share of the n^%.3g %s keys", exponents[place], which), kShare, "%.2f",
                      place_of_share, [place](const HeadFigures& head) { return head.kept_mass[place]; }});
    panels.push_back({printed("Smallest exponent C whose n^C %s keys keep 95 %%", which), kShare, "%.2f",
                      place_of_share,
                      [](const HeadFigures& head) { return head.smallest_exponent.value_or(std::nan("")); }});
  }
  return panels;
}

/// One line a cell: head, layer, value (1 or more on a logarithmic scale), its number and the number's colour; cells
/// without a number are left out.
void write_cells(const Analysis& analysis, const Panel& panel, const std::string& name, std::ostream& out) {
  out << name << " << EOD\n";
  for (std::size_t layer = 0; layer < analysis.layers.size(); ++layer) {
    for (const HeadFigures& head : analysis.layers[layer].heads) {
      const double value = panel.value(head);
      if (!std::isfinite(value)) continue;
      const double place = panel.place(value);
      const double drawn = panel.place(0.0) == panel.place(1.0) ? std::max(value, 1.0) : value;
      out << head.head << " " << layer << " " << printed("%.9g ", drawn) << printed(panel.label, value)
          << (place < 0.6 ? " 16777215" : " 0") << "\n";
    }
  }
  out << "EOD\n";
}

void write_panel(const Panel& panel, const std::string& data, bool has_room, std::ostream& out) {
  out << "set title \"" << escaped(panel.title) << "\"\n" << panel.colours << "\n";
  out << "plot " << data
      << " using ($1):($2):(0.5):(0.5):3 with boxxyerror fillcolor palette fillstyle solid 1 noborder "
      << "notitle";
  if (has_room) out << ", " << data << " using 1:2:4:5 with labels textcolor rgb variable font \",11\" notitle";
  out << "\n";
}

}  // namespace

std::string plot_script(const Analysis& analysis, const std::string& path) {
  const std::vector<Panel> panels = panels_of(analysis);
  int most_heads = 1;
  for (const LayerAnalysis& layer : analysis.layers) most_heads = std::max(most_heads, layer.shape.num_heads);
  const auto layers = static_cast<int>(analysis.layers.size());
  const bool has_room = most_heads <= 16 && layers <= 24;  // for numbers in the cells
  const int columns = panels.size() > 1 ? 2 : 1;
  const int rows = static_cast<int>(panels.size() + 1) / columns - (columns == 1 && panels.size() == 1 ? 1 : 0);
  const int width = columns * std::clamp(140 + 60 * most_heads, 560, 1100);
  const int height = 50 + rows * std::clamp(130 + 45 * layers, 230, 900);

  std::ostringstream out;
  for (std::size_t i = 0; i < panels.size(); ++i)
    write_cells(analysis, panels[i], printed("$panel%d", static_cast<int>(i)), out);
  out << "set terminal pngcairo size " << width << "," << height << " font \"sans,12\" noenhanced\n"
      << "set output \"" << escaped(path) << "\"\n"
      << "set multiplot layout " << rows << "," << columns << " title \""
      << escaped("Heads of " + std::filesystem::path(analysis.request.input).filename().string() + ", " +
                 std::to_string(analysis.layers.front().shape.seq_len) + " tokens")
      << "\" font \",15\"\n"
      << "set palette defined (0 '#440154', 1 '#3b528b', 2 '#21918c', 3 '#5ec962', 4 '#fde725')\nset xlabel "
         "\"head\"\nset ylabel \"layer\"\n"
      << "set xrange [-0.5:" << most_heads - 1 << ".5]\nset yrange [" << layers - 1 << ".5:-0.5]\n"
      << "set xtics " << std::max(1, most_heads / 16) << " scale 0\nset tics out\n";
  out << "set ytics scale 0 (";
  for (int layer = 0; layer < layers; layer += std::max(1, layers / 24)) {
    const std::string& name = analysis.layers[static_cast<std::size_t>(layer)].shape.name;
    out << (layer > 0 ? ", " : "") << "\"" << escaped(name.empty() ? "-" : name) << "\" " << layer;
  }
  out << ")\n";
  for (std::size_t i = 0; i < panels.size(); ++i) {
    write_panel(panels[i], printed("$panel%d", static_cast<int>(i)), has_room, out);
  }
  out << "unset multiplot\nset output\n";
  return out.str();
}

void draw_plot(const Analysis& analysis, const std::string& path) {
  draw_with_gnuplot([&](const std::string& partial) { return plot_script(analysis, partial); }, path);
}

}  // namespace ringscan
