// Axes, ticks and two lines with cairo's toy text: all that a loss curve needs.
#include "train/plot.h"

#include <cairo/cairo.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "core/error.h"

namespace llmtrain {
namespace {

constexpr double kWidth = 800, kHeight = 520;
constexpr double kLeft = 78, kRight = 24, kTop = 44, kBottom = 58;

struct Axis {
  double low = 0, high = 1;  // data
  double from = 0, to = 1;   // pixels
  double pixel(double value) const { return from + (value - low) / (high - low) * (to - from); }
};

struct Range {
  double low = 0, high = 1;
};

// Least and largest finite value; widened where they are the same.
Range range_of(const std::vector<double>& values, double margin) {
  Range r{INFINITY, -INFINITY};
  for (const double v : values) {
    if (!std::isfinite(v)) continue;
    r.low = std::min(r.low, v);
    r.high = std::max(r.high, v);
  }
  if (!(r.low <= r.high)) return {};
  const double span = r.high - r.low;
  const double extra = span > 0 ? span * margin : std::max(std::abs(r.low) * 0.05, 0.5);
  return {r.low - extra, r.high + extra};
}

std::string tick_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", std::abs(value) < 1e-12 ? 0.0 : value);
  return text;
}

void text_at(cairo_t* cr, const std::string& text, double x, double y, double align) {
  cairo_text_extents_t extents;
  cairo_text_extents(cr, text.c_str(), &extents);
  cairo_move_to(cr, x - align * extents.width, y);
  cairo_show_text(cr, text.c_str());
}

void draw_axes(cairo_t* cr, const Axis& x, const Axis& y, const std::string& title, const std::string& quantity) {
  cairo_set_font_size(cr, 12);
  cairo_set_line_width(cr, 1);
  for (const double tick : nice_ticks(x.low, x.high, 9)) {
    cairo_set_source_rgb(cr, 0.9, 0.9, 0.9);
    cairo_move_to(cr, x.pixel(tick), y.from);
    cairo_line_to(cr, x.pixel(tick), y.to);
    cairo_stroke(cr);
    cairo_set_source_rgb(cr, 0.2, 0.2, 0.2);
    text_at(cr, tick_text(tick), x.pixel(tick), y.from + 18, 0.5);
  }
  for (const double tick : nice_ticks(y.low, y.high, 8)) {
    cairo_set_source_rgb(cr, 0.9, 0.9, 0.9);
    cairo_move_to(cr, x.from, y.pixel(tick));
    cairo_line_to(cr, x.to, y.pixel(tick));
    cairo_stroke(cr);
    cairo_set_source_rgb(cr, 0.2, 0.2, 0.2);
    text_at(cr, tick_text(tick), x.from - 8, y.pixel(tick) + 4, 1.0);
  }
  cairo_set_source_rgb(cr, 0.2, 0.2, 0.2);
  cairo_rectangle(cr, x.from, y.to, x.to - x.from, y.from - y.to);
  cairo_stroke(cr);
  cairo_set_font_size(cr, 13);
  text_at(cr, "step", (x.from + x.to) / 2, kHeight - 16, 0.5);
  cairo_save(cr);
  cairo_translate(cr, 20, (y.from + y.to) / 2);
  cairo_rotate(cr, -M_PI / 2);
  text_at(cr, quantity, 0, 0, 0.5);
  cairo_restore(cr);
  cairo_set_font_size(cr, 15);
  text_at(cr, title, (x.from + x.to) / 2, 28, 0.5);
}

void draw_line(cairo_t* cr, const Axis& x, const Axis& y, const std::vector<double>& steps, const std::vector<double>& values) {
  bool open = false;
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      open = false;
    } else if (open) {
      cairo_line_to(cr, x.pixel(steps[i]), y.pixel(values[i]));
    } else {
      cairo_move_to(cr, x.pixel(steps[i]), y.pixel(values[i]));
      cairo_line_to(cr, x.pixel(steps[i]), y.pixel(values[i]));  // with round caps a single value is a dot
      open = true;
    }
  }
  cairo_stroke(cr);
}

void draw_legend(cairo_t* cr, const Axis& x, const Axis& y) {
  const double left = x.to - 130, top = y.to + 20;
  cairo_set_font_size(cr, 12);
  for (int i = 0; i < 2; ++i) {
    cairo_set_source_rgba(cr, 0.12, 0.47, 0.71, i == 0 ? 0.4 : 1.0);
    cairo_set_line_width(cr, i == 0 ? 1.5 : 2.5);
    cairo_move_to(cr, left, top + 20 * i);
    cairo_line_to(cr, left + 28, top + 20 * i);
    cairo_stroke(cr);
    cairo_set_source_rgb(cr, 0.2, 0.2, 0.2);
    text_at(cr, i == 0 ? "original" : "smoothed", left + 36, top + 20 * i + 4, 0);
  }
}

cairo_status_t append(void* to, const unsigned char* data, unsigned int length) {
  static_cast<std::string*>(to)->append(reinterpret_cast<const char*>(data), length);
  return CAIRO_STATUS_SUCCESS;
}

}  // namespace

std::vector<double> smooth(const std::vector<double>& values) {
  std::vector<double> result;
  if (values.empty()) return result;
  const double weight = 1.8 * (1 / (1 + std::exp(-0.05 * static_cast<double>(values.size()))) - 0.5);
  double last = values.front();
  for (const double value : values) {
    // One value that is not finite must not hide all later ones.
    if (std::isfinite(value)) last = std::isfinite(last) ? last * weight + (1 - weight) * value : value;
    result.push_back(std::isfinite(value) ? last : value);
  }
  return result;
}

std::vector<double> nice_ticks(double low, double high, int most) {
  std::vector<double> ticks;
  if (!(high > low) || most < 1) return ticks;
  double step = std::pow(10.0, std::floor(std::log10((high - low) / most)));
  for (const double factor : {1.0, 2.0, 5.0, 10.0}) {
    if ((high - low) / (step * factor) <= most) {
      step *= factor;
      break;
    }
  }
  for (double k = std::ceil(low / step); k * step <= high; ++k) ticks.push_back(k * step);
  return ticks;
}

std::string draw_curve(const Curve& curve, const std::string& title, const std::string& quantity) {
  const std::unique_ptr<cairo_surface_t, void (*)(cairo_surface_t*)> surface(
      cairo_image_surface_create(CAIRO_FORMAT_RGB24, static_cast<int>(kWidth), static_cast<int>(kHeight)), cairo_surface_destroy);
  const std::unique_ptr<cairo_t, void (*)(cairo_t*)> context(cairo_create(surface.get()), cairo_destroy);
  cairo_t* cr = context.get();
  cairo_set_source_rgb(cr, 1, 1, 1);
  cairo_paint(cr);
  const Range steps = range_of(curve.steps, 0.02), values = range_of(curve.values, 0.06);
  const Axis x{steps.low, steps.high, kLeft, kWidth - kRight}, y{values.low, values.high, kHeight - kBottom, kTop};
  draw_axes(cr, x, y, title, quantity);
  cairo_set_line_cap(cr, CAIRO_LINE_CAP_ROUND);
  cairo_set_line_join(cr, CAIRO_LINE_JOIN_ROUND);
  cairo_set_source_rgba(cr, 0.12, 0.47, 0.71, 0.4);
  cairo_set_line_width(cr, 1.5);
  draw_line(cr, x, y, curve.steps, curve.values);
  cairo_set_source_rgb(cr, 0.12, 0.47, 0.71);
  cairo_set_line_width(cr, 2.5);
  draw_line(cr, x, y, curve.steps, smooth(curve.values));
  draw_legend(cr, x, y);
  std::string png;
  const cairo_status_t status = cairo_surface_write_to_png_stream(surface.get(), append, &png);
  if (status != CAIRO_STATUS_SUCCESS) throw OperationError(std::string("drawing a plot: ") + cairo_status_to_string(status));
  return png;
}

}  // namespace llmtrain
