// Learning-rate schedules, by the names and keyword arguments of Hugging Face transformers (lr_scheduler_type, lr_scheduler_kwargs;
// https://huggingface.co/docs/transformers/main_classes/optimizer_schedules). All arithmetic is double, in the order of their formulas.
//
// The rate of step s (1 for the first) is learning_rate * factor(s - 1): under a linear warm-up the first step has the rate 0, as there.
// Errors: InputError naming lr_scheduler_type or the keyword argument. Thread rules: immutable after make().
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace llmtrain {

struct ScheduleOptions {
  std::string type = "linear";                // lr_scheduler_type
  double learning_rate = 5e-5;
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;
  std::map<std::string, std::string> kwargs;  // lr_scheduler_kwargs, as written; "null" counts as absent
  std::string where = "lr_scheduler_kwargs";  // named in errors
};

class Schedule {
 public:
  static Schedule make(const ScheduleOptions& options);
  // Rate of optimizer step `step`, 1 for the first.
  double rate(int64_t step) const { return learning_rate_ * factor_(step - 1); }
  // The names that make() knows.
  static std::vector<std::string> names();

 private:
  double learning_rate_ = 0;
  std::function<double(int64_t)> factor_;  // of the number of steps already done
};

}  // namespace llmtrain
