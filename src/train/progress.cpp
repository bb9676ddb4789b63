// The bar and the lines of progress.h.
#include "train/progress.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/error.h"

namespace llmtrain {
namespace {

constexpr double kRedrawSeconds = 0.1;

int columns_of(int fd) {
  if (!isatty(fd)) return 0;
  winsize size{};
  if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

ProgressKind parse_progress(const std::string& text) {
  if (text.empty() || text == "auto") return ProgressKind::automatic;
  if (text == "bar") return ProgressKind::bar;
  if (text == "lines") return ProgressKind::lines;
  throw InputError("progress", "'" + text + "' is unknown", "choose auto, bar or lines");
}

int terminal_columns(bool launched) {
  if (const int own = columns_of(STDERR_FILENO); own > 0) return own;
  if (!launched) return 0;
  const std::string path = "/proc/" + std::to_string(getppid()) + "/fd/2";
  const int fd = open(path.c_str(), O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return 0;
  const int columns = columns_of(fd);
  close(fd);
  return columns;
}

std::string duration_text(double seconds) {
  const auto whole = static_cast<int64_t>(std::isfinite(seconds) ? std::clamp(seconds, 0.0, 1e15) : 0.0);
  const int64_t days = whole / 86400;
  char text[64];
  std::snprintf(text, sizeof text, "%d:%02d:%02d", static_cast<int>(whole % 86400 / 3600), static_cast<int>(whole % 3600 / 60), static_cast<int>(whole % 60));
  if (days == 0) return text;
  return std::to_string(days) + (days == 1 ? " day, " : " days, ") + text;
}

std::string short_number(double value) {
  char text[32];
  if (value < 9999.5) {
    std::snprintf(text, sizeof text, "%.0f", value);
  } else if (value < 999950) {
    std::snprintf(text, sizeof text, "%.1fk", value / 1e3);
  } else {
    std::snprintf(text, sizeof text, "%.1fM", value / 1e6);
  }
  return text;
}

Progress::Progress(Log& log, ProgressKind kind, bool launched, int64_t total_steps) : log_(log), total_(total_steps) {
  if (!log.speaks() || kind == ProgressKind::lines) return;
  columns_ = terminal_columns(launched);
  if (kind == ProgressKind::bar && columns_ == 0) columns_ = 80;
}

std::string Progress::bar_text(const State& state) const {
  char text[160];
  const double part = total_ > 0 ? static_cast<double>(state.step) / static_cast<double>(total_) : 1.0;
  std::snprintf(text, sizeof text, " %3d%% %lld/%lld  loss %.4f  %s tokens/s  %s left", static_cast<int>(part * 100), static_cast<long long>(state.step),
                static_cast<long long>(total_), state.loss, short_number(state.tokens_per_second).c_str(), duration_text(state.remaining_seconds).c_str());
  const std::string words = text;
  const int room = columns_ - 1 - static_cast<int>(words.size()) - 2;
  if (room < 5) return words.substr(1, static_cast<size_t>(std::max(1, columns_ - 1)));
  const int width = std::min(room, 40), full = static_cast<int>(part * width);
  return "[" + std::string(static_cast<size_t>(full), '#') + std::string(static_cast<size_t>(width - full), '.') + "]" + words;
}

void Progress::update(const State& state) {
  last_ = state;
  if (columns_ == 0) return;
  if (drawn_at_ >= 0 && state.elapsed_seconds - drawn_at_ < kRedrawSeconds && state.step < total_) return;
  drawn_at_ = state.elapsed_seconds;
  open_ = true;
  log_.bar(bar_text(state), false);
}

void Progress::line(const State& state, const std::string& more) {
  if (columns_ > 0) {
    drawn_at_ = -1;
    update(state);
    return;
  }
  char text[160];
  std::snprintf(text, sizeof text, "step %lld/%lld  epoch %.2f  loss %.4f  ", static_cast<long long>(state.step), static_cast<long long>(total_), state.epoch,
                state.loss);
  log_.info(text + more + "  " + short_number(state.tokens_per_second) + " tokens/s  " + duration_text(state.elapsed_seconds) + " gone, " +
            duration_text(state.remaining_seconds) + " left");
}

void Progress::finish() {
  if (open_) log_.bar(bar_text(last_), true);
  open_ = false;
}

}  // namespace llmtrain
