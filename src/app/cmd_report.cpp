// llmtrain report: the results of several runs side by side.
#include <algorithm>
#include <boost/program_options/value_semantic.hpp>
#include <cstdio>
#include <filesystem>
#include <sstream>
#include <string_view>

#include "app/commands.h"
#include "app/help.h"
#include "core/printable.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json.h"

namespace llmtrain {
namespace {

constexpr size_t kMaxResultsBytes = size_t{1} << 20;

struct Row {
  std::string dir, state, fault;  // fault: why its results cannot be read, "" if they can
  Json results;  // all_results.json; null where the run has not ended
  Json last;     // last line of trainer_log.jsonl
  Json trained;  // last line with the training loss: lines of evaluations have eval_loss instead
};

// JSON as Python's json module writes it, whose bare NaN and Infinity no JSON has: they become null. (Logs of other programs, and of llmtrain before it wrote
// null itself.)
std::string without_bare_words(const std::string& text) {
  std::string out;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"') in_string = !in_string;
    if (in_string && text[i] == '\\' && i + 1 < text.size()) out += text[i++];
    size_t skip = 0;
    for (const std::string_view word : {"NaN", "-NaN", "Infinity", "-Infinity"}) {
      if (!in_string && text.compare(i, word.size(), word) == 0) skip = word.size();
    }
    if (skip == 0) {
      out += text[i];
    } else {
      out += "null";
      i += skip - 1;
    }
  }
  return out;
}

Json parse_lenient(const std::string& text, const std::string& where) { return parse_json(without_bare_words(text), where); }

void read_log(const std::string& path, Row& row) {
  if (!is_regular_file(path)) return;
  std::istringstream lines(read_file(path));
  for (std::string text; std::getline(lines, text);) {
    if (text.empty()) continue;
    try {
      row.last = parse_lenient(text, path);
    } catch (const InputError&) {
      continue;  // a line that is being written
    }
    if (row.last.contains("loss")) row.trained = row.last;
  }
}

Json read_results(const std::string& path) {
  Json results = parse_lenient(read_file(path, kMaxResultsBytes), path);
  if (!results.is_object()) throw InputError(path, "these are not the results of a run: a JSON object is expected");
  return results;
}

// One broken run keeps nobody from seeing the others.
Row read_run(const std::string& dir) {
  Row row{dir, "", "", nullptr, nullptr, nullptr};
  try {
    if (!is_directory(dir)) throw InputError(dir, "no such folder", "name the output_dir of runs");
    read_log(dir + "/trainer_log.jsonl", row);
    std::error_code unknown;  // what cannot even be looked at is opened, and says why
    if (std::filesystem::exists(dir + "/all_results.json", unknown) || unknown) row.results = read_results(dir + "/all_results.json");
  } catch (const InputError& e) {
    row.fault = e.what();
  } catch (const OperationError& e) {  // a disk that cannot read it back
    row.fault = e.what();
  }
  row.state = !row.fault.empty() ? "broken" : row.results.is_object() ? "done" : row.last.is_object() ? "not ended" : "not begun";
  return row;
}

std::string cell(const Json& object, const char* key) {
  if (!object.is_object() || !object.contains(key) || object[key].is_null()) return "-";
  const Json& v = object[key];
  if (v.is_number_float()) {
    char text[32];
    std::snprintf(text, sizeof text, "%.6g", v.get<double>());
    return text;
  }
  return printable(v.is_string() ? v.get<std::string>() : dump_json(v));
}

std::string table_of(const std::vector<Row>& rows) {
  std::vector<std::vector<std::string>> table = {{"run", "state", "steps", "last loss", "train loss", "eval loss", "seconds", "samples/s"}};
  for (const Row& r : rows) {
    table.push_back({printable(r.dir), r.state, cell(r.last, "current_steps") + "/" + cell(r.last, "total_steps"), cell(r.trained, "loss"),
                     cell(r.results, "train_loss"), cell(r.results, "eval_loss"), cell(r.results, "train_runtime"),
                     cell(r.results, "train_samples_per_second")});
  }
  std::string text;
  for (const auto& row : table) {
    for (size_t c = 0; c < row.size(); ++c) {
      size_t width = 0;
      for (const auto& other : table) width = std::max(width, other[c].size());
      text += row[c] + (c + 1 < row.size() ? std::string(width - row[c].size() + 2, ' ') : "\n");
    }
  }
  return text;
}

Json json_of(const std::vector<Row>& rows) {
  Json out = Json::array();
  for (const Row& r : rows) {
    out.push_back({{"dir", r.dir}, {"state", r.state}, {"results", r.results}, {"last", r.last}});
    if (!r.fault.empty()) out.back()["fault"] = r.fault;
  }
  return {{"runs", out}};
}

}  // namespace

int command_report(const std::vector<std::string>& args, App& app) {
  CommandLine line("report", "DIR… [--json]",
                   "Tabulates the results of runs (their output_dir): a job array's tasks, variants of one configuration. One that cannot be read is\n"
                   "shown as broken and named with what is wrong behind the table; the exit code is then 2.");
  line.options.add_options()("json", "one JSON object on one line");
  line.take_words("DIR", -1);
  if (!line.parse(args, app)) return kExitDone;
  if (line.words().empty()) throw InputError("llmtrain report", "DIR is missing", "name the output_dir of one run or more");
  std::vector<Row> rows;
  for (const std::string& dir : line.words()) rows.push_back(read_run(dir));
  app.print(line.has("json") ? dump_json(json_of(rows)) + "\n" : table_of(rows));
  std::string faults;
  for (const Row& r : rows) {
    if (!r.fault.empty()) faults += "\n  " + printable(r.fault, true);
  }
  if (!faults.empty()) throw InputError("llmtrain report", "the results of some runs cannot be read:" + faults);
  return kExitDone;
}

}  // namespace llmtrain
