// Loss curves as PNG, drawn with cairo: the raw values thin, the smoothed ones thick.
// Thread rules: pure functions.
#pragma once

#include <string>
#include <vector>

namespace llmtrain {

struct Curve {
  std::vector<double> steps, values;  // of equal length; values that are not finite leave a gap
};

// Exponential moving average with the weight w = 1.8 * (sigmoid(0.05 n) - 0.5) of n values: s_i = w s_(i-1) + (1 - w) v_i, s_0 = v_0.
std::vector<double> smooth(const std::vector<double>& values);

// Ticks at 1, 2 or 5 times a power of ten that cover [low, high] with at most `most` of them.
std::vector<double> nice_ticks(double low, double high, int most);

// The bytes of a PNG file. `title` stands above, `quantity` beside the vertical axis, "step" below.
std::string draw_curve(const Curve& curve, const std::string& title, const std::string& quantity);

}  // namespace llmtrain
