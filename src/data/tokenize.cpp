// Encoding rows with several threads (tokenize.h). Threads take runs of rows from a counter; results are written in the order of the runs.
#include "data/tokenize.h"

#include <xxhash.h>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "core/error.h"
#include "data/row_source.h"
#include "data/tools.h"

namespace llmtrain {
namespace {

constexpr uint64_t kPlainRun = 128;  // rows handed to a thread at a time where runs do not matter

}  // namespace

DatasetSource::~DatasetSource() = default;
DatasetSource::DatasetSource(DatasetSource&&) noexcept = default;

DatasetSource::DatasetSource(DatasetEntry entry, const DataOptions& options, NumpyLegacy& samples) : entry_(std::move(entry)) {
  const bool anywhere = entry_.num_samples || options.val_size > 0;  // rows are drawn from anywhere
  const uint64_t most = options.max_samples ? static_cast<uint64_t>(*options.max_samples) : UINT64_MAX;
  for (const std::string& path : entry_.files) {
    SourceFile file;
    file.path = path;
    if (anywhere) file.stride = 1;
    scan_file(file, entry_.num_samples ? UINT64_MAX : most - total_);
    total_ += file.rows;
    bytes_ += File::open_for_reading(path).size();
    files_.push_back(std::move(file));
  }
  if (total_ == 0) throw InputError(entry_.files.front(), "holds no rows", "It is the dataset " + entry_.name + ".");
  length_ = std::min(entry_.num_samples.value_or(total_), most);
  if (entry_.num_samples) draw(*entry_.num_samples, samples);
}

// num_samples: a random permutation of the rows; where more are asked for than there are, the rest are drawn with repetition.
void DatasetSource::draw(uint64_t wanted, NumpyLegacy& samples) {
  if (total_ > UINT32_MAX) throw InputError(entry_.files.front(), "holds too many rows to draw num_samples from", "It is the dataset " + entry_.name + ".");
  const auto rows = static_cast<uint32_t>(total_);
  drawn_ = samples.permutation(rows);
  drawn_.resize(std::min<uint64_t>(length_, total_));
  for (uint64_t i = total_; i < wanted; ++i) {  // numpy draws them all, whatever max_samples leaves of them
    const uint32_t row = samples.below(rows);
    if (i < length_) drawn_.push_back(row);
  }
}

uint64_t DatasetSource::hash() const {
  uint64_t h = XXH3_64bits(entry_.name.data(), entry_.name.size());
  for (const SourceFile& f : files_) {
    const uint64_t both[3] = {h, f.hash, f.rows};
    h = XXH3_64bits(both, sizeof both);
  }
  const uint64_t both[2] = {h, XXH3_64bits(drawn_.data(), drawn_.size() * sizeof(uint32_t))};
  return drawn_.empty() ? h : XXH3_64bits(both, sizeof both);
}

std::pair<size_t, uint64_t> DatasetSource::locate(uint64_t row) const {
  if (!drawn_.empty()) row = drawn_[row];
  size_t file = 0;
  while (row >= files_[file].rows) row -= files_[file++].rows;
  return {file, row};
}

PackKind pack_kind(const DataOptions& o) {
  if (!is_packed(o)) return PackKind::none;
  if (o.stage == Stage::pt) return PackKind::blocks;
  return o.neat_packing ? PackKind::neat : PackKind::plain;
}

std::vector<uint64_t> row_runs(uint64_t rows, const DataOptions& o) {
  std::vector<uint64_t> starts = {0};
  const bool matters = pack_kind(o) != PackKind::none;
  const uint64_t size = matters ? static_cast<uint64_t>(o.preprocessing_batch_size) : kPlainRun;
  const uint64_t workers = matters ? std::min(std::max<uint64_t>(rows, 1), static_cast<uint64_t>(o.preprocessing_num_workers)) : 1;
  uint64_t begin = 0;
  for (uint64_t w = 0; w < workers; ++w) {  // the first rows % workers parts hold one more
    const uint64_t end = begin + rows / workers + (w < rows % workers);
    while (begin < end) {
      begin = std::min(begin + size, end);
      starts.push_back(begin);
    }
  }
  return starts;
}

namespace {

// The state of one thread: a reader for each dataset, an encoder with its cache.
class RunEncoder {
 public:
  explicit RunEncoder(const TokenizeJob& job)
      : job_(job), encoder_(job.tokenizer, job.tmpl, job.tokens, job.options, job.date), readers_(job.sources.size()), pack_(pack_kind(job.options)) {
    for (const DatasetSource& s : job.sources) {
      columns_.push_back(required_columns(s.entry(), job.options.stage));
      const auto more = optional_columns(s.entry());
      columns_.back().insert(columns_.back().end(), more.begin(), more.end());
    }
  }

  void run(uint64_t begin, uint64_t end, Frame& frame, StoreReport& report) {
    samples_.clear();
    frame_ = &frame;
    report_ = &report;
    for (uint64_t i = begin; i < end; ++i) take_row(i);
    if (pack_ == PackKind::blocks) cut_blocks();
    if (pack_ == PackKind::plain || pack_ == PackKind::neat) write_packs();
  }

 private:
  struct OpenReader {
    size_t file = SIZE_MAX;
    std::unique_ptr<RowReader> reader;
  };

  void take_row(uint64_t order) {
    const RowRef ref = job_.plan.at(order);
    const DatasetSource& source = job_.sources[ref.dataset];
    const auto [file, row] = source.locate(ref.row);
    OpenReader& open = readers_[ref.dataset];
    if (open.file != file) {
      open.reader = std::make_unique<RowReader>(source.files()[file]);
      open.file = file;
    }
    const Row& parsed = open.reader->read(row);
    DatasetReport& report = report_->datasets[ref.dataset];
    const std::string& path = source.files()[file].path;
    ++report.rows;
    for (const std::string& column : columns_[ref.dataset]) report.columns[column] += parsed.field(column).present();
    try {
      convert_row(source.entry(), job_.options.stage, parsed, example_);
      encode_example(order, path, row, report);
    } catch (const RowError& e) {
      report.drop(e.what(), order, path, row + 1);
    }
  }

  void encode_example(uint64_t order, const std::string& path, uint64_t row, DatasetReport& report) {
    bool cut = false;
    const bool ranking = job_.options.stage == Stage::dpo;
    switch (job_.options.stage) {
      case Stage::pt: cut = encoder_.pretraining(example_, pack_ == PackKind::blocks ? 0 : effective_cutoff(job_.options), first_); break;
      case Stage::sft: cut = encoder_.supervised(example_, first_); break;
      case Stage::dpo: cut = encoder_.ranking(example_, first_, second_); break;
    }
    if (cut) {
      if (job_.options.truncation == Truncation::error) {
        throw InputError(path + ": row " + std::to_string(row + 1),
                         "is longer than cutoff_len (" + std::to_string(job_.options.cutoff_len) + " tokens)",
                         "Raise cutoff_len, or set truncation: llamafactory (cut) or drop.");
      }
      if (job_.options.truncation == Truncation::drop) throw RowError("longer than cutoff_len (truncation: drop)");
      report.truncated.note(order, path, row + 1);
    }
    ++report.used;
    count(first_, report);
    if (ranking) count(second_, report);
    if (pack_ == PackKind::none) {
      emit(first_);
      if (ranking) emit(second_);
      ++report_->rows;
    } else {
      samples_.push_back(first_);
    }
  }

  static void count(const Sequence& s, DatasetReport& report) {
    report.tokens += s.ids.size();
    for (const Span t : s.trained) report.trained_tokens += t.end - t.begin;
  }

  // Into the frame, and into the totals of the store.
  void emit(const Sequence& s) {
    frame_->add(s);
    report_->tokens += s.ids.size();
    for (const Span t : s.trained) {
      report_->trained_tokens += t.end - t.begin;
      for (uint32_t i = t.begin; i < t.end && !report_->eos_trained; ++i) report_->eos_trained = s.ids[i] == job_.tokens.eos_id;
    }
  }

  void cut_blocks() {
    std::vector<int32_t> all;
    for (const Sequence& s : samples_) all.insert(all.end(), s.ids.begin(), s.ids.end());
    const auto block = static_cast<size_t>(effective_cutoff(job_.options));
    for (size_t at = 0; at + block <= all.size(); at += block) {
      first_.clear();
      encoder_.append_pretraining(all.data() + at, block, first_);
      emit(first_);
      ++report_->rows;
    }
  }

  void write_packs() {
    std::vector<size_t> lengths;
    for (const Sequence& s : samples_) lengths.push_back(s.ids.size());
    for (const std::vector<size_t>& pack : knapsack_packs(lengths, static_cast<size_t>(effective_cutoff(job_.options)))) {
      first_.clear();
      for (const size_t index : pack) {
        const Sequence& s = samples_[index];
        const auto base = static_cast<uint32_t>(first_.ids.size());
        if (!s.ids.empty()) first_.restarts.push_back(base);
        first_.ids.insert(first_.ids.end(), s.ids.begin(), s.ids.end());
        for (const Span t : s.trained) {
          if (!first_.trained.empty() && first_.trained.back().end == base + t.begin) {
            first_.trained.back().end = base + t.end;
          } else {
            first_.trained.push_back({base + t.begin, base + t.end});
          }
        }
      }
      report_->padding += static_cast<uint64_t>(job_.options.cutoff_len) - first_.ids.size();
      emit(first_);
      ++report_->rows;
    }
  }

  const TokenizeJob& job_;
  RowEncoder encoder_;
  std::vector<OpenReader> readers_;
  std::vector<std::vector<std::string>> columns_;
  PackKind pack_;
  Example example_;
  Sequence first_, second_;
  std::vector<Sequence> samples_;
  Frame* frame_ = nullptr;
  StoreReport* report_ = nullptr;
};

StoreReport empty_report(const TokenizeJob& job) {
  StoreReport report;
  for (const DatasetSource& s : job.sources) {
    DatasetReport d;
    d.name = s.entry().name;
    report.datasets.push_back(std::move(d));
  }
  return report;
}

// Results wait here until all before them are written; a thread that is too far ahead waits for room, so memory stays bounded.
class OrderedWriter {
 public:
  OrderedWriter(PartWriter& writer, StoreReport& total, size_t begin, size_t window)
      : writer_(writer), total_(total), next_(begin), window_(window), waiting_(window) {}

  bool wait_for_room(size_t run) {
    std::unique_lock lock(mutex_);
    room_.wait(lock, [&] { return run < next_ + window_ || failed_at_; });
    return !failed_at_;
  }
  void put(size_t run, Frame frame, StoreReport report) {
    std::unique_lock lock(mutex_);
    waiting_[run % window_].emplace(std::move(frame), std::move(report));
    while (!failed_at_ && waiting_[next_ % window_]) {
      auto [ready, part] = std::move(*waiting_[next_ % window_]);
      waiting_[next_ % window_].reset();
      writer_.append(ready);
      total_.merge(part);
      ++next_;
    }
    room_.notify_all();
  }
  void fail(size_t run, std::exception_ptr error) {
    std::unique_lock lock(mutex_);
    if (!failed_at_ || run < *failed_at_) {
      failed_at_ = run;
      error_ = error;
    }
    room_.notify_all();
  }
  std::exception_ptr error() const { return error_; }

 private:
  PartWriter& writer_;
  StoreReport& total_;
  size_t next_, window_;
  std::vector<std::optional<std::pair<Frame, StoreReport>>> waiting_;
  std::mutex mutex_;
  std::condition_variable room_;
  std::optional<size_t> failed_at_;
  std::exception_ptr error_;
};

}  // namespace

StoreReport tokenize_runs(const TokenizeJob& job, const std::vector<uint64_t>& starts, size_t begin, size_t end, PartWriter& writer) {
  StoreReport total = empty_report(job);
  const size_t threads = std::clamp<size_t>(static_cast<size_t>(std::max(job.threads, 1)), 1, std::max<size_t>(end - begin, 1));
  OrderedWriter ordered(writer, total, begin, 2 * threads);
  std::mutex counter_mutex;
  size_t counter = begin;
  const auto work = [&] {
    std::optional<RunEncoder> encoder;
    while (true) {
      size_t run;
      {
        std::lock_guard lock(counter_mutex);
        if (counter >= end) return;
        run = counter++;
      }
      if (!ordered.wait_for_room(run)) return;
      try {
        if (!encoder) encoder.emplace(job);
        Frame frame;
        StoreReport report = empty_report(job);
        encoder->run(starts[run], starts[run + 1], frame, report);
        ordered.put(run, std::move(frame), std::move(report));
      } catch (...) {
        ordered.fail(run, std::current_exception());
        return;
      }
    }
  };
  std::vector<std::thread> helpers;
  for (size_t t = 1; t < threads; ++t) helpers.emplace_back(work);
  work();
  for (std::thread& t : helpers) t.join();
  if (ordered.error()) std::rethrow_exception(ordered.error());
  return total;
}

}  // namespace llmtrain
