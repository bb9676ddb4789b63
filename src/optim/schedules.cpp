// The formulas of schedules.h, in the order of operations of transformers' lambdas so that the doubles are the same.
#include "optim/schedules.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <utility>

#include "core/error.h"

namespace llmtrain {
namespace {

constexpr double kPi = 3.14159265358979323846;

// The keyword arguments of one schedule; what is left over at the end is refused by name.
class Arguments {
 public:
  explicit Arguments(const ScheduleOptions& options) : options_(options), left_(options.kwargs) {
    std::erase_if(left_, [](const auto& item) { return item.second == "null" || item.second == "None" || item.second == "~"; });
  }

  std::optional<double> number(const std::string& name) {
    const auto found = left_.find(name);
    if (found == left_.end()) return std::nullopt;
    const std::string text = found->second;
    left_.erase(found);
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !std::isfinite(value))
      throw InputError(options_.where + "." + name, "'" + text + "' is not a number", "write a number, like 0.1");
    return value;
  }
  double number(const std::string& name, double otherwise) { return number(name).value_or(otherwise); }

  std::optional<int64_t> steps(const std::string& name) {
    const std::optional<double> value = number(name);
    if (!value) return std::nullopt;
    if (*value < 0 || *value != std::floor(*value) || *value > 1e15)
      throw InputError(options_.where + "." + name, "must be a whole number that is not negative", "");
    return static_cast<int64_t>(*value);
  }

  std::string choice(const std::string& name, const std::string& otherwise) {
    const auto found = left_.find(name);
    if (found == left_.end()) return otherwise;
    const std::string text = found->second;
    left_.erase(found);
    if (text != "linear" && text != "cosine" && text != "1-sqrt")
      throw InputError(options_.where + "." + name, "'" + text + "' is unknown", "choose linear, cosine or 1-sqrt");
    return text;
  }

  void finish() const {
    if (!left_.empty())
      throw InputError(options_.where + "." + left_.begin()->first, "lr_scheduler_type " + options_.type + " has no such argument", "remove it");
  }

  [[noreturn]] void refuse(const std::string& name, const std::string& what, const std::string& advice) const {
    throw InputError(options_.where + "." + name, what, advice);
  }

 private:
  const ScheduleOptions& options_;
  std::map<std::string, std::string> left_;
};

using Factor = std::function<double(int64_t)>;

double at_least_one(int64_t n) { return static_cast<double>(std::max<int64_t>(1, n)); }

double warmup_part(int64_t done, int64_t warmup) { return static_cast<double>(done) / at_least_one(warmup); }

double progress_after(int64_t done, int64_t warmup, int64_t total) { return static_cast<double>(done - warmup) / at_least_one(total - warmup); }

Factor linear(int64_t warmup, int64_t total) {
  return [=](int64_t done) {
    if (done < warmup) return warmup_part(done, warmup);
    return std::max(0.0, static_cast<double>(total - done) / at_least_one(total - warmup));
  };
}

Factor cosine(int64_t warmup, int64_t total, double cycles) {
  return [=](int64_t done) {
    if (done < warmup) return warmup_part(done, warmup);
    return std::max(0.0, 0.5 * (1.0 + std::cos(kPi * cycles * 2.0 * progress_after(done, warmup, total))));
  };
}

Factor cosine_with_restarts(int64_t warmup, int64_t total, double cycles) {
  return [=](int64_t done) {
    if (done < warmup) return warmup_part(done, warmup);
    const double progress = progress_after(done, warmup, total);
    if (progress >= 1.0) return 0.0;
    return std::max(0.0, 0.5 * (1.0 + std::cos(kPi * std::fmod(cycles * progress, 1.0))));
  };
}

Factor polynomial(int64_t warmup, int64_t total, double rate, double end, double power) {
  return [=](int64_t done) {
    if (done < warmup) return warmup_part(done, warmup);
    if (done > total) return end / rate;
    const double remaining = 1 - static_cast<double>(done - warmup) / at_least_one(total - warmup);
    return ((rate - end) * std::pow(remaining, power) + end) / rate;
  };
}

Factor constant_with_warmup(int64_t warmup) {
  return [=](int64_t done) { return done < warmup ? warmup_part(done, warmup) : 1.0; };
}

Factor inverse_sqrt(int64_t warmup, int64_t timescale) {
  return [=](int64_t done) {
    if (done < warmup) return warmup_part(done, warmup);
    const int64_t shift = timescale - warmup;
    return 1.0 / std::sqrt(static_cast<double>(done + shift) / static_cast<double>(timescale));
  };
}

Factor cosine_with_min_lr(int64_t warmup, int64_t total, double cycles, double least) {
  return [=](int64_t done) {
    if (done < warmup) return warmup_part(done, warmup);
    double factor = 0.5 * (1.0 + std::cos(kPi * cycles * 2.0 * progress_after(done, warmup, total)));
    factor = factor * (1 - least) + least;
    return std::max(0.0, factor);
  };
}

Factor cosine_warmup_with_min_lr(int64_t warmup, int64_t total, double cycles, double least, std::optional<double> first) {
  return [=](int64_t done) {
    const auto d = static_cast<double>(done), w = static_cast<double>(warmup), t = static_cast<double>(total);
    if (done < warmup) {
      if (!first) return (d + 1.0) / std::max(1.0, w);
      return *first + (1.0 - *first) * d / std::max(1.0, w - 1);
    }
    const double progress = (d - w + 1.0) / std::max(1.0, t - w);
    double factor = 0.5 * (1.0 + std::cos(kPi * cycles * 2.0 * progress));
    factor = factor * (1 - least) + least;
    return std::max(0.0, factor);
  };
}

struct StableDecay {
  int64_t warmup, stable, decay;
  std::string warmup_type, decay_type;
  double least, cycles;

  double rising(double progress) const {
    if (warmup_type == "linear") return progress;
    if (warmup_type == "cosine") return 0.5 * (1.0 - std::cos(kPi * progress));
    return 1.0 - std::sqrt(1.0 - progress);
  }
  double falling(double progress) const {
    if (decay_type == "linear") return 1.0 - progress;
    if (decay_type == "cosine") return 0.5 * (1.0 + std::cos(kPi * cycles * 2.0 * progress));
    return 1.0 - std::sqrt(progress);
  }
  double operator()(int64_t done) const {
    if (done < warmup) return std::max(0.0, rising(warmup_part(done, warmup)) * (1.0 - least) + least);
    if (done < warmup + stable) return 1.0;
    if (done < warmup + stable + decay) {
      const double progress = static_cast<double>(done - warmup - stable) / at_least_one(decay);
      return std::max(0.0, falling(progress) * (1.0 - least) + least);
    }
    return least;
  }
};

// min_lr or min_lr_rate, exactly one of them.
double least_rate(Arguments& arguments, double rate) {
  const std::optional<double> absolute = arguments.number("min_lr"), relative = arguments.number("min_lr_rate");
  if (absolute && relative) arguments.refuse("min_lr", "stands beside min_lr_rate", "give only one of them");
  if (absolute) return *absolute / rate;
  if (!relative) arguments.refuse("min_lr", "is missing", "give min_lr or min_lr_rate");
  return *relative;
}

Factor make_stable_decay(Arguments& arguments, int64_t warmup, int64_t total) {
  // What is left out is LLaMA-Factory's: a third of the steps after the warm-up for the stable phase, whatever num_decay_steps says, and the rest for the decay.
  const int64_t left = std::max<int64_t>(0, total - warmup), third = left / 3;
  StableDecay s;
  s.warmup = warmup;
  s.stable = arguments.steps("num_stable_steps").value_or(third);
  s.decay = arguments.steps("num_decay_steps").value_or(left - third);
  s.warmup_type = arguments.choice("warmup_type", "linear");
  s.decay_type = arguments.choice("decay_type", "cosine");
  s.least = arguments.number("min_lr_ratio", 0);
  s.cycles = arguments.number("num_cycles", 0.5);
  return s;
}

Factor make_polynomial(Arguments& arguments, int64_t warmup, int64_t total, double rate) {
  const double end = arguments.number("lr_end", 1e-7), power = arguments.number("power", 1.0);
  if (!(rate > end)) arguments.refuse("lr_end", "must be smaller than learning_rate", "lower lr_end or raise learning_rate");
  return polynomial(warmup, total, rate, end, power);
}

Factor make_factor(const ScheduleOptions& options, Arguments& arguments) {
  const int64_t warmup = options.warmup_steps, total = options.total_steps;
  const std::string& type = options.type;
  if (type == "linear") return linear(warmup, total);
  if (type == "cosine") return cosine(warmup, total, arguments.number("num_cycles", 0.5));
  if (type == "cosine_with_restarts") return cosine_with_restarts(warmup, total, arguments.number("num_cycles", 1.0));
  if (type == "polynomial") return make_polynomial(arguments, warmup, total, options.learning_rate);
  if (type == "constant") return [](int64_t) { return 1.0; };
  if (type == "constant_with_warmup") return constant_with_warmup(warmup);
  if (type == "inverse_sqrt") {
    const int64_t timescale = arguments.steps("timescale").value_or(warmup > 0 ? warmup : 10000);
    if (timescale < 1) arguments.refuse("timescale", "must be positive", "");
    return inverse_sqrt(warmup, timescale);
  }
  if (type == "cosine_with_min_lr") {
    const double cycles = arguments.number("num_cycles", 0.5);
    return cosine_with_min_lr(warmup, total, cycles, least_rate(arguments, options.learning_rate));
  }
  if (type == "cosine_warmup_with_min_lr") {
    const double cycles = arguments.number("num_cycles", 0.5);
    const std::optional<double> first = arguments.number("warmup_lr_rate");
    return cosine_warmup_with_min_lr(warmup, total, cycles, least_rate(arguments, options.learning_rate), first);
  }
  if (type == "warmup_stable_decay") return make_stable_decay(arguments, warmup, total);
  std::string known;
  for (const std::string& name : Schedule::names()) known += (known.empty() ? "" : ", ") + name;
  throw InputError("lr_scheduler_type", "'" + type + "' is not supported", "choose one of: " + known);
}

}  // namespace

std::vector<std::string> Schedule::names() {
  return {"linear",       "cosine",           "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
          "inverse_sqrt", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay"};
}

Schedule Schedule::make(const ScheduleOptions& options) {
  Arguments arguments(options);
  Schedule schedule;
  schedule.learning_rate_ = options.learning_rate;
  schedule.factor_ = make_factor(options, arguments);
  // transformers passes no arguments to the two constant schedules: whatever stands there has no effect.
  if (options.type != "constant" && options.type != "constant_with_warmup") arguments.finish();
  return schedule;
}

}  // namespace llmtrain
