// Preparing data (prepare.h).
#include "data/prepare.h"

#include <sched.h>
#include <unistd.h>
#include <xxhash.h>

#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "core/error.h"
#include "core/flattened_link.h"
#include "core/log.h"
#include "data/reference_random.h"
#include "data/row_source.h"
#include "data/store_build.h"
#include "data/tokenize.h"
#include "data/tools.h"

namespace llmtrain {
namespace {

constexpr uint32_t kIdsVersion = 3;  // raise when the same input gives other ids

std::string hex(uint64_t v) {
  char buffer[20];
  std::snprintf(buffer, sizeof buffer, "%016llx", static_cast<unsigned long long>(v));
  return buffer;
}

std::string hex_hash(const std::string& text) { return hex(XXH3_64bits(text.data(), text.size())); }

int usable_threads(const DataOptions& options) {
  if (options.threads > 0) return options.threads;
  cpu_set_t set;
  CPU_ZERO(&set);
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

// The content of the files that decide what the tokenizer does.
std::string tokenizer_hash(const Tokenizer& tokenizer) {
  std::string all;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}) {
    const std::string path = follow_flattened_link(tokenizer.folder() + "/" + name);
    all += is_regular_file(path) ? std::string(name) + "=" + hex_hash(read_file(path)) + ";" : "";
  }
  return all;
}

std::string entry_text(const DatasetEntry& d) {
  std::string text = d.name + "|" + std::to_string(static_cast<int>(d.formatting)) + "|" + std::to_string(d.ranking) + "|" +
                     std::to_string(d.num_samples.value_or(0));
  for (const DatasetEntry::Name* n : {&d.prompt,      &d.query,    &d.response,      &d.history,         &d.messages,     &d.system,    &d.tools,
                                      &d.chosen,      &d.rejected, &d.kto_tag,       &d.images,          &d.videos,       &d.audios,    &d.role_tag,
                                      &d.content_tag, &d.user_tag, &d.assistant_tag, &d.observation_tag, &d.function_tag, &d.system_tag}) {
    text += *n ? "|=" + **n : "|-";
  }
  return text + "\n";
}

// What one call has made on disk, so that wrong input found later leaves nothing behind: two datasets are tokenised one after the other.
class Made {
 public:
  // `folder` and what is missing above it is about to be made.
  void will_make(const std::string& folder) {
    std::error_code ignored;
    for (std::filesystem::path p(folder); !p.empty() && !std::filesystem::exists(p, ignored); p = p.parent_path()) folders_.push_back(p.string());
  }
  void store(const std::string& folder) { stores_.push_back(folder); }
  void undo() const {
    std::error_code ignored;
    for (const std::string& store : stores_) std::filesystem::remove_all(store, ignored);
    for (const std::string& folder : folders_) std::filesystem::remove(folder, ignored);  // only where empty; the deepest stands first
  }

 private:
  std::vector<std::string> stores_, folders_;
};

// Everything shared by the stores of one call.
struct Context {
  const DataOptions& options;
  const Tokenizer& tokenizer;
  RankGroup& group;
  Log& log;
  const Template& tmpl;
  const SpecialTokens& tokens;
  std::string date;
  std::string tokenizer_key;
  Made& made;
  NumpyLegacy& samples;
};

bool uses_date(const Context& c, const std::vector<DatasetSource>& sources) {
  bool tools = false;
  for (const DatasetSource& s : sources) tools = tools || s.entry().tools.has_value();
  return tools && c.tmpl.tool_list_format == "llama3";
}

// Which of the rows of the datasets a store holds.
enum class Part : uint8_t { all, training, validation };

// The text whose hash names a store: every option and input that changes its ids or their order.
std::string store_key(const Context& c, const std::vector<DatasetSource>& sources, Part part) {
  const DataOptions& o = c.options;
  std::string text = "ids " + std::to_string(kIdsVersion) + " stage " + name_of(o.stage) + " template " + c.tmpl.name + "\n" + c.tmpl.default_system +
                     "\n" + c.tmpl.tool_format + " " + c.tmpl.tool_list_format + "\n" + c.tokenizer_key + "\n";
  const auto number = [&text](const char* name, int64_t n) { text += std::string(name) + "=" + std::to_string(n) + "\n"; };
  number("cutoff_len", o.cutoff_len);
  number("effective_cutoff", effective_cutoff(o));
  number("pack", static_cast<int>(pack_kind(o)));
  number("max_samples", o.max_samples.value_or(-1));
  number("train_on_prompt", o.train_on_prompt);
  number("mask_history", o.mask_history);
  number("mix", static_cast<int>(o.mix_strategy));
  number("enable_thinking", o.enable_thinking ? *o.enable_thinking : 2);
  number("truncation", static_cast<int>(o.truncation));
  number("eos", c.tokens.eos_id);
  number("pad", c.tokens.pad_id);
  if (pack_kind(o) != PackKind::none) {
    number("batch", o.preprocessing_batch_size);
    number("workers", o.preprocessing_num_workers);
  }
  bool random = !o.interleave_probs.empty() || part != Part::all;
  if (part != Part::all) text += std::string(part == Part::training ? "all but" : "only") + " val_size=" + std::to_string(o.val_size) + "\n";
  for (const double p : o.interleave_probs) text += std::to_string(p) + " ";
  for (const DatasetSource& s : sources) {
    text += entry_text(s.entry()) + hex(s.hash()) + "\n";
    random = random || s.entry().num_samples.has_value();
  }
  if (random) number("seed", o.seed);
  if (uses_date(c, sources)) text += "date=" + c.date + "\n";
  return hex_hash(text);
}

// Files that differ between ranks would give each rank other rows: say which one.
void demand_same_files(const Context& c, const std::vector<DatasetSource>& sources) {
  std::string mine;
  for (const DatasetSource& s : sources) {
    for (const SourceFile& f : s.files()) mine += f.path + ": " + hex(f.hash) + " " + std::to_string(f.rows) + "\n";
  }
  const std::vector<std::string> all = gather_strings(c.group, mine);
  for (size_t r = 1; r < all.size(); ++r) {
    if (all[r] == all[0]) continue;
    size_t line = 0;
    while (line < all[0].size() && line < all[r].size() && all[0][line] == all[r][line]) ++line;
    const size_t begin = all[0].rfind('\n', line == 0 ? 0 : line - 1);
    const size_t first = begin == std::string::npos ? 0 : begin + 1;
    const std::string path = all[0].substr(first, all[0].find(": ", first) - first);
    throw InputError(path, "rank " + std::to_string(r) + " sees another content than rank 0", "Every rank must read the same data files.");
  }
  if (gather_strings(c.group, c.tokenizer_key) != std::vector<std::string>(all.size(), c.tokenizer_key)) {
    throw InputError(c.tokenizer.folder(), "the tokenizer files differ between ranks", "Every rank must read the same tokenizer.");
  }
}

void demand_columns(const std::vector<DatasetSource>& sources, const StoreReport& report, Stage stage) {
  for (size_t i = 0; i < sources.size(); ++i) {
    const DatasetReport& d = report.datasets[i];
    for (const std::string& column : required_columns(sources[i].entry(), stage)) {
      const auto count = d.columns.find(column);
      if (d.rows == 0 || (count != d.columns.end() && count->second > 0)) continue;
      std::string names;
      RowReader first(sources[i].files()[sources[i].locate(0).first]);
      for (const std::string& name : first.read(sources[i].locate(0).second).names()) names += (names.empty() ? "" : ", ") + name;
      throw InputError(sources[i].entry().files.front(), "no row has the column \"" + column + "\" of dataset " + d.name,
                       "Its rows have: " + names + ". Name the columns in dataset_info.json.");
    }
  }
}

void demand_rows(const StoreReport& report, const DataOptions& options) {
  if (report.rows > 0) return;
  std::string why;
  uint64_t used = 0;
  for (const DatasetReport& d : report.datasets) {
    used += d.used;
    for (const auto& [reason, note] : d.dropped) {
      if (why.empty()) why = note.file + ": row " + std::to_string(note.row) + ": " + reason;
    }
  }
  std::string names;
  for (const DatasetReport& d : report.datasets) names += (names.empty() ? "" : ", ") + d.name;
  if (used > 0) {
    throw InputError("dataset", names + " has fewer tokens than one block of cutoff_len (" + std::to_string(options.cutoff_len) + ")",
                     "Lower cutoff_len, add text, or set packing: false.");
  }
  throw InputError("dataset", names + " has no usable row" + (why.empty() ? "" : "; the first: " + why));
}

std::string format_count(double n) {
  char buffer[40];
  std::snprintf(buffer, sizeof buffer, "%.0f", n);
  return buffer;
}

std::string seconds_text(double s) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.1f s", s);
  return buffer;
}

// The rows of `sources` in their order. val_size is taken from the rows before they are tokenised, as LLaMA-Factory does it: dropped rows count, and packs do
// not cross the two parts.
MixPlan plan_rows(const DataOptions& o, const std::vector<DatasetSource>& sources, Part part) {
  std::vector<uint64_t> lengths;
  for (const DatasetSource& s : sources) lengths.push_back(s.length());
  const auto seed = static_cast<uint64_t>(o.seed);
  MixPlan plan(lengths, o.mix_strategy, o.interleave_probs, seed);
  if (part == Part::all) return plan;
  const uint64_t rows = plan.size();
  const double wanted = o.val_size > 1 ? std::floor(o.val_size) : std::ceil(o.val_size * static_cast<double>(rows));
  if (!(wanted >= 1 && wanted < static_cast<double>(rows)))
    throw InputError("val_size", format_count(wanted) + " rows for validation leave none of " + std::to_string(rows) + " for training");
  if (part == Part::training) {
    plan.keep_training(static_cast<uint64_t>(wanted), seed);
  } else {
    plan.keep_validation(static_cast<uint64_t>(wanted), seed);
  }
  return plan;
}

// Tokenises the rows of `sources` into `folder`.
TokenStore build_store(const Context& c, const std::string& name, const std::vector<DatasetSource>& sources, const MixPlan& plan, Part part,
                       const std::string& key, const std::string& folder) {
  const auto started = std::chrono::steady_clock::now();
  uint64_t bytes = 0;
  for (const DatasetSource& s : sources) bytes += s.bytes();
  const std::vector<uint64_t> starts = row_runs(plan.size(), c.options);
  const size_t runs = starts.size() - 1, ranks = static_cast<size_t>(c.group.size()), me = static_cast<size_t>(c.group.rank());
  const int threads = usable_threads(c.options);
  c.log.info(name + ": tokenising " + std::to_string(plan.size()) + (plan.size() == 1 ? " row (" : " rows (") + std::to_string((bytes + (1 << 20) - 1) >> 20) +
             " MiB of files) with " + std::to_string(ranks) + (ranks == 1 ? " process" : " processes") + ", " + std::to_string(threads) +
             (threads == 1 ? " thread" : " threads") + " each");
  run_on_all_or_fail(c.group, [&] {
    const std::string parent = std::filesystem::path(folder).parent_path().string();
    c.made.will_make(parent);
    make_writable_directories(parent);
  });
  StoreBuilder builder(c.group, folder, true);
  StoreReport report;
  uint64_t part_bytes = 0;
  run_on_all_or_fail(c.group, [&] {
    PartWriter writer(builder.part_path());
    const TokenizeJob job{c.options, sources, plan, c.tokenizer, c.tmpl, c.tokens, c.date, threads};
    report = tokenize_runs(job, starts, runs * me / ranks, runs * (me + 1) / ranks, writer);
    writer.finish();
    part_bytes = writer.bytes();
  });
  const std::vector<std::string> parts = gather_strings(c.group, dump_json([&] {
    report.name = name;
    report.eos = c.tokens.eos;
    return report_json(report);
  }()));
  StoreReport total = report_from_json(parse_json(parts[0], "report"), "report");
  for (size_t r = 1; r < parts.size(); ++r) total.merge(report_from_json(parse_json(parts[r], "report"), "report"));
  run_on_all_or_fail(c.group, [&] {
    if (part != Part::validation) demand_columns(sources, total, c.options.stage);  // a few rows say little about a dataset
    demand_rows(total, c.options);
  });
  StoreInfo info;
  info.key = key;
  info.ranking = c.options.stage == Stage::dpo;
  info.pack = pack_kind(c.options);
  info.cutoff_len = c.options.cutoff_len;
  info.eos_id = c.tokens.eos_id;
  info.pad_id = c.tokens.pad_id;
  info.rows = total.rows;
  info.report = report_json(total);
  builder.commit(info, part_bytes);
  c.made.store(folder);
  TokenStore store;
  run_on_all_or_fail(c.group, [&] { store = open_committed(folder, c.group.size()); });
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  c.log.info(name + ": token store written to " + folder + " in " + seconds_text(seconds));
  return store;
}

std::vector<DatasetSource> open_sources(const Context& c, const std::vector<std::string>& names) {
  std::vector<DatasetSource> sources;
  run_on_all_or_fail(c.group, [&] {
    for (DatasetEntry& entry : read_dataset_info(c.options.dataset_dir, names, c.options.stage, c.log))
      sources.emplace_back(std::move(entry), c.options, c.samples);
  });
  demand_same_files(c, sources);
  return sources;
}

TokenStore find_or_build(const Context& c, const std::string& name, const std::vector<DatasetSource>& sources, Part part, const std::string& given_folder) {
  std::optional<MixPlan> plan;
  run_on_all_or_fail(c.group, [&] { plan = plan_rows(c.options, sources, part); });
  const std::string key = store_key(c, sources, part);
  const std::string folder = given_folder.empty() ? c.options.store_dir + "/tokens-" + key : given_folder;
  std::string reason;
  if (!c.options.overwrite_cache) {
    if (auto store = open_if_everywhere(c.group, folder, key, reason)) {
      c.log.info(name + ": token store found in " + folder);
      return std::move(*store);
    }
    if (!reason.empty()) c.log.warn(reason);
  }
  return build_store(c, name, sources, *plan, part, key, folder);
}

StoreReport report_of(const TokenStore& store, const std::string& where) { return report_from_json(store.info().report, where); }

// The folder of an evaluation set: its name, where that is a plain word, else a hash of it (names come from a file).
std::string eval_folder(const std::string& path, const std::string& name) {
  bool plain = !name.empty() && name.size() <= 64;
  for (const char c : name) plain = plain && (std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-');
  return path + "/eval-" + (plain ? name : hex_hash(name));
}

// tokenized_path: what it holds, for a later run that takes it as it is.
constexpr const char* kIndexName = "/llmtrain_dataset.json";

void write_index(const Context& c, const std::string& path, const Dataset& data) {
  Json eval = Json::array();
  for (const EvalSet& e : data.eval) eval.push_back(e.name);
  const Json index{{"format", "llmtrain tokenized dataset"}, {"stage", name_of(c.options.stage)}, {"train", !data.train.empty()}, {"eval", eval},
                   {"val_size", c.options.val_size}, {"seed", c.options.seed}};
  // Each rank sees its own file system; on a shared one the same bytes are written several times, each time whole.
  run_on_all_or_fail(c.group, [&] { write_file_atomically(path + kIndexName, dump_json(index, 1) + "\n"); });
}

// All ranks load, or (no index anywhere) none.
bool load_tokenized(const Context& c, const std::string& path, Dataset& data) {
  const char mine = is_regular_file(path + kIndexName);
  std::vector<char> all(static_cast<size_t>(c.group.size()));
  c.group.all_gather(&mine, all.data(), 1);
  for (const char there : all) {
    if (!there) return false;
  }
  run_on_all_or_fail(c.group, [&] {
    const Json index = parse_json_file(path + kIndexName, size_t{1} << 20);
    try {
      if (index.at("stage").get<std::string>() != name_of(c.options.stage)) {
        throw InputError("tokenized_path", path + " was made for stage " + index.at("stage").get<std::string>() + ", not " + name_of(c.options.stage),
                         "Name another folder, or remove this one.");
      }
      if (index.at("train").get<bool>()) data.train = TokenStore::open(path + "/train", true);
      const auto val_size = index.at("val_size").get<double>();
      if (!(val_size >= 0 && val_size < 1e15)) throw InputError(path + kIndexName, "\"val_size\" is out of range");
      if (val_size > 1e-6 && index.at("eval").empty())
        throw InputError("tokenized_path", path + " was made by an earlier version, which set other rows aside for val_size", "Remove the folder to make it anew.");
      for (const Json& name : index.at("eval"))
        data.eval.push_back({name.get<std::string>(), TokenStore::open(eval_folder(path, name.get<std::string>()), true)});
    } catch (const nlohmann::json::exception& e) {
      throw InputError(path + kIndexName, std::string("is damaged: ") + e.what(), "Remove the folder to make it anew.");
    }
    for (const TokenStore* store : {&data.train}) {
      if (!store->empty() && (store->info().eos_id != c.tokens.eos_id || store->info().pad_id != c.tokens.pad_id)) {
        throw InputError("tokenized_path", path + " was made with other special tokens than those of this template and tokenizer",
                         "Name another folder.");
      }
    }
  });
  c.log.info("tokenized_path: loaded from " + path + "; options that shape rows are not looked at");
  return true;
}

// The training set and the evaluation sets, found or built.
void build_sets(const Context& c, Dataset& data) {
  const DataOptions& options = c.options;
  const std::string& given = options.tokenized_path;
  const bool splits = options.val_size > 1e-6 && !options.dataset.empty();
  const auto folder_of = [&given](const std::string& name) { return given.empty() ? "" : eval_folder(given, name); };
  if (!options.dataset.empty()) {
    const std::vector<DatasetSource> sources = open_sources(c, options.dataset);
    data.train = find_or_build(c, "train", sources, splits ? Part::training : Part::all, given.empty() ? "" : given + "/train");
    if (splits) data.eval.push_back({"eval", find_or_build(c, "eval", sources, Part::validation, folder_of("eval"))});
  }
  std::vector<std::pair<std::string, std::vector<std::string>>> sets;
  if (options.eval_on_each_dataset) {
    for (const std::string& name : options.eval_dataset) sets.push_back({name, {name}});
  } else if (!options.eval_dataset.empty()) {
    sets.push_back({"eval", options.eval_dataset});
  }
  for (const auto& [name, names] : sets) data.eval.push_back({name, find_or_build(c, name, open_sources(c, names), Part::all, folder_of(name))});
  if (!given.empty()) write_index(c, given, data);
}

}  // namespace

Json reports_json(const std::vector<StoreReport>& reports) {
  Json list = Json::array();
  for (const StoreReport& r : reports) list.push_back(report_json(r));
  return Json{{"stores", list}};
}

Dataset prepare_data(const DataOptions& options, const Tokenizer& tokenizer, RankGroup& group, Log& log) {
  Dataset data;
  std::string tokenizer_key, date = options.tool_date.empty() ? today() : options.tool_date;
  date = broadcast_string(group, date, 0);  // midnight must not fall between ranks
  data.date = date;
  run_on_all_or_fail(group, [&] {
    check_data_options(options);
    if (options.dataset.empty() && options.eval_dataset.empty())
      throw InputError("dataset", "no dataset is named", "Set dataset: NAME, one of dataset_dir/dataset_info.json.");
    if (!options.interleave_probs.empty() && !options.eval_dataset.empty() && !options.eval_on_each_dataset &&
        options.eval_dataset.size() != options.interleave_probs.size()) {
      throw InputError("interleave_probs", "also mixes eval_dataset, which has another number of datasets", "Set eval_on_each_dataset: true.");
    }
    if (options.store_dir.empty() && options.tokenized_path.empty())
      throw InputError("output_dir", "is needed for the token store", "Set output_dir or tokenized_path.");
    TemplateChoice choice =
        choose_template(options.template_name, tokenizer, options.stage == Stage::pt, options.default_system, options.tool_format);
    if (!choice.note.empty()) log.info(choice.note);
    data.tmpl = std::move(choice.tmpl);
    data.tokens = special_tokens(data.tmpl, tokenizer);
    tokenizer_key = tokenizer_hash(tokenizer);
  });
  const Tokenizer encoding_tokenizer = tokenizer_for(data.tmpl, tokenizer);
  Made made;
  NumpyLegacy samples(static_cast<uint64_t>(options.seed));
  const Context c{options, encoding_tokenizer, group, log, data.tmpl, data.tokens, date, tokenizer_key, made, samples};
  const std::string& given = options.tokenized_path;
  if (!given.empty()) {
    run_on_all_or_fail(group, [&] {
      for (const char* name : {"dataset_dict.json", "dataset_info.json", "state.json"}) {
        if (is_regular_file(given + "/" + name)) {
          throw InputError("tokenized_path", given + " holds a Hugging Face dataset (Arrow), which is not read here",
                           "Name an empty or new folder; it is filled in the first run.");
        }
      }
    });
  }
  const bool loaded = !given.empty() && !options.overwrite_cache && load_tokenized(c, given, data);
  if (!loaded) {
    try {
      build_sets(c, data);
    } catch (const InputError&) {
      data.train = TokenStore();
      data.eval.clear();
      made.undo();
      throw;
    }
  }
  if (!data.train.empty()) data.reports.push_back(report_of(data.train, "train"));
  for (const EvalSet& e : data.eval) data.reports.push_back(report_of(e.store, e.name));
  for (const StoreReport& r : data.reports) log_report(r, log);
  return data;
}

}  // namespace llmtrain
