// Reports of data preparation (report.h).
#include "data/report.h"

#include "core/error.h"
#include "core/log.h"

namespace llmtrain {
namespace {

constexpr size_t kMostReasons = 32;

std::string grouped(uint64_t n) {  // 1,234,567
  const std::string digits = std::to_string(n);
  std::string s;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) s += ',';
    s += digits[i];
  }
  return s;
}

std::string rows_text(uint64_t n, const char* kind = "") { return grouped(n) + " " + kind + (n == 1 ? "row" : "rows"); }
std::string tokens_text(uint64_t n) { return grouped(n) + (n == 1 ? " token" : " tokens"); }

Json note_json(const RowNote& n) { return Json{{"count", n.count}, {"order", n.order}, {"file", n.file}, {"row", n.row}}; }

uint64_t count_from(const Json& j, const char* key, const std::string& where) { return static_cast<uint64_t>(whole_number(j, key, 0, INT64_MAX, where)); }

RowNote note_from(const Json& j, const std::string& where) {
  RowNote n;
  n.count = count_from(j, "count", where);
  n.order = count_from(j, "order", where);
  n.file = j.at("file").get<std::string>();
  n.row = count_from(j, "row", where);
  return n;
}

Json dataset_json(const DatasetReport& d) {
  Json dropped = Json::object(), columns = Json::object();
  for (const auto& [reason, note] : d.dropped) dropped[reason] = note_json(note);
  for (const auto& [column, count] : d.columns) columns[column] = count;
  return Json{{"name", d.name},
              {"rows", d.rows},
              {"used", d.used},
              {"tokens", d.tokens},
              {"trained_tokens", d.trained_tokens},
              {"truncated", note_json(d.truncated)},
              {"dropped", dropped},
              {"columns", columns}};
}

const Json& object_from(const Json& j, const char* key, const std::string& where) {
  if (!j.at(key).is_object()) throw InputError(where, std::string("\"") + key + "\" is no object");
  return j.at(key);
}

DatasetReport dataset_from(const Json& j, const std::string& where) {
  DatasetReport d;
  d.name = j.at("name").get<std::string>();
  d.rows = count_from(j, "rows", where);
  d.used = count_from(j, "used", where);
  d.tokens = count_from(j, "tokens", where);
  d.trained_tokens = count_from(j, "trained_tokens", where);
  d.truncated = note_from(j.at("truncated"), where);
  const Json &dropped = object_from(j, "dropped", where), &columns = object_from(j, "columns", where);
  for (auto it = dropped.begin(); it != dropped.end(); ++it) d.dropped[it.key()] = note_from(*it, where);
  for (auto it = columns.begin(); it != columns.end(); ++it) d.columns[it.key()] = count_from(columns, it.key().c_str(), where);
  return d;
}

}  // namespace

void RowNote::note(uint64_t at, const std::string& in_file, uint64_t in_row) {
  if (count++ == 0) {
    order = at;
    file = in_file;
    row = in_row;
  }
}

void RowNote::merge(const RowNote& o) {
  if (o.count == 0) return;
  if (count == 0 || o.order < order) {
    order = o.order;
    file = o.file;
    row = o.row;
  }
  count += o.count;
}

void DatasetReport::drop(const std::string& reason, uint64_t order, const std::string& file, uint64_t row) {
  const bool room = dropped.size() < kMostReasons || dropped.count(reason);
  dropped[room ? reason : "other reasons"].note(order, file, row);
}

void DatasetReport::merge(const DatasetReport& o) {
  rows += o.rows;
  used += o.used;
  tokens += o.tokens;
  trained_tokens += o.trained_tokens;
  truncated.merge(o.truncated);
  for (const auto& [reason, note] : o.dropped) dropped[reason].merge(note);
  for (const auto& [column, count] : o.columns) columns[column] += count;
}

void StoreReport::merge(const StoreReport& o) {
  LLMTRAIN_ASSERT(datasets.size() == o.datasets.size(), "reports of different stores");
  for (size_t i = 0; i < datasets.size(); ++i) datasets[i].merge(o.datasets[i]);
  rows += o.rows;
  tokens += o.tokens;
  padding += o.padding;
  trained_tokens += o.trained_tokens;
  eos_trained = eos_trained || o.eos_trained;
}

Json report_json(const StoreReport& r) {
  Json datasets = Json::array();
  for (const DatasetReport& d : r.datasets) datasets.push_back(dataset_json(d));
  return Json{{"name", r.name},       {"rows", r.rows},        {"tokens", r.tokens}, {"padding", r.padding}, {"trained_tokens", r.trained_tokens},
              {"eos_trained", r.eos_trained}, {"eos", r.eos}, {"datasets", datasets}};
}

StoreReport report_from_json(const Json& j, const std::string& where) {
  try {
    StoreReport r;
    r.name = j.at("name").get<std::string>();
    r.rows = count_from(j, "rows", where);
    r.tokens = count_from(j, "tokens", where);
    r.padding = count_from(j, "padding", where);
    r.trained_tokens = count_from(j, "trained_tokens", where);
    r.eos_trained = j.at("eos_trained").get<bool>();
    r.eos = j.at("eos").get<std::string>();
    for (const Json& d : j.at("datasets")) r.datasets.push_back(dataset_from(d, where));
    return r;
  } catch (const nlohmann::json::exception& e) {
    throw InputError(where, std::string("the report in it is damaged: ") + e.what());
  }
}

std::vector<std::string> report_lines(const StoreReport& r) {
  std::vector<std::string> lines;
  for (const DatasetReport& d : r.datasets) {
    lines.push_back(r.name + ": " + d.name + ": " + rows_text(d.rows) + ", " + grouped(d.used) + " used, " + grouped(d.dropped_rows()) +
                    " dropped, " + grouped(d.truncated.count) + " cut, " + tokens_text(d.tokens) + ", " + grouped(d.trained_tokens) +
                    " with loss");
    for (const auto& [reason, note] : d.dropped) {
      lines.push_back("  dropped " + grouped(note.count) + ": " + reason + " (first: " + note.file + ": row " + std::to_string(note.row) + ")");
    }
    if (d.truncated.count > 0) {
      lines.push_back("  cut " + grouped(d.truncated.count) + " to cutoff_len (first: " + d.truncated.file + ": row " +
                      std::to_string(d.truncated.row) + ")");
    }
  }
  const char* use = r.name == "train" ? "training " : "evaluation ";
  lines.push_back(r.name + ": " + rows_text(r.rows, use) + ", " + tokens_text(r.tokens) + ", " + grouped(r.trained_tokens) + " with loss" +
                  (r.padding > 0 ? ", " + grouped(r.padding) + " of padding left out" : ""));
  return lines;
}

void log_report(const StoreReport& r, Log& log) {
  for (const std::string& line : report_lines(r)) log.info(line);
  for (const DatasetReport& d : r.datasets) {
    for (const auto& [column, count] : d.columns) {
      if (count == 0 && d.rows > 0) log.warn(r.name + ": " + d.name + ": no row has the column \"" + column + "\" that dataset_info.json names");
    }
  }
  if (!r.eos_trained && r.rows > 0) log.warn(r.name + ": the EOS token " + r.eos + " never carries loss: the model will not learn where to stop");
}

}  // namespace llmtrain
