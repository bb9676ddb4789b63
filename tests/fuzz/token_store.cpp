// A token store that somebody hands over (tokenized_path): its part file with a fitting or any checksum, its manifest.json, the index of the folder.
// The first byte chooses which.
#include <cstring>

#include "core/error.h"
#include "data/prepare.h"
#include "data/store.h"
#include "support/tokenizers.h"

namespace llmtrain::fuzz {
namespace {

std::string store_folder() { return scratch() + "/store/train"; }

std::string sound_part() {
  make_directories(store_folder());
  const std::string path = store_folder() + "/part-00000.tokens";
  PartWriter writer(path);
  Frame frame;
  Sequence s;
  s.append({1, 2, 3}, 3, false);
  s.append({4, 5}, 2, true);
  frame.add(s);
  frame.add(s);
  writer.append(frame);
  frame.clear();
  s.restarts = {0, 3};
  frame.add(s);
  writer.append(frame);
  writer.finish();
  return read_file(path);
}

StoreInfo info_of(uint64_t rows, bool ranking, PackKind pack) {
  StoreInfo info;
  info.key = "0123456789abcdef";
  info.rows = rows;
  info.cutoff_len = 8;
  info.ranking = ranking;
  info.pack = pack;
  info.eos_id = 0;
  info.pad_id = 0;
  StoreReport report;
  report.name = "train";
  report.datasets.emplace_back();
  report.datasets[0].drop("no answer", 0, "rows.json", 1);
  info.report = report_json(report);
  return info;
}

std::string manifest(uint64_t rows, size_t bytes, bool ranking = false, PackKind pack = PackKind::none) {
  return dump_json(manifest_json(info_of(rows, ranking, pack), {"part-00000.tokens"}, {bytes}), 1);
}

void use(const TokenStore& store) {
  for (size_t i = 0; i < store.size() && i < 1000; ++i) {
    int64_t sum = 0;
    for (const int32_t id : store.row(i).ids) sum += id;
    store.trained_tokens(i);
    store.tokens(i);
    if (store.padded_tokens(i) > 0 && sum == INT64_MIN) finding("cannot be");
  }
  report_from_json(store.info().report, "manifest.json");
  write_golden_lines(store, scratch() + "/rows.jsonl");
}

const char* const kIndex = "{'format':'llmtrain tokenized dataset','stage':'sft','train':true,'eval':[],'val_size':0.0,'seed':42}";

void load_folder(std::string_view index) {
  static const Tokenizer tokenizer = Tokenizer::load(byte_tokenizer_folder("tokenizer"));
  put("store/llmtrain_dataset.json", index);
  DataOptions options;
  options.template_name = "qwen";
  options.dataset = {"a"};
  options.dataset_dir = scratch() + "/none";
  options.tokenized_path = scratch() + "/store";
  SoloGroup group;
  prepare_data(options, tokenizer, group, silent_log());
}

}  // namespace

const Target& target() {
  static const Target t{{"\x03" + sound_part(), "\x13" + sound_part(), "m" + manifest(3, sound_part().size()), "i" + json(kIndex),
                         "i" + json("{'stage':'sft','train':true,'eval':['eval'],'val_size':0.5,'seed':1}")},
                        json_words({"\"parts\"", "\"file\"", "\"bytes\"", "\"report\"", "\"rows\"", "\"pack\"", "\"neat\"", "\"ranking\"", "\"datasets\"", "\"dropped\"", "\"count\"",
                                    "\"val_size\"", "\"seed\"", "\"eval\"", "\"train\"", "TOKFRAME", "LLMTOKEN"})};
  return t;
}

void take(std::string_view input) {
  static const std::string part = sound_part();
  if (input.empty()) return;
  const char kind = input[0];
  const std::string_view rest = input.substr(1);
  if (kind == 'm' || kind == 'i') {
    put("store/train/part-00000.tokens", part);
    put("store/train/manifest.json", kind == 'm' ? std::string(rest) : manifest(3, part.size()));
    if (kind == 'm') {
      remove("store/llmtrain_dataset.json");
      use(TokenStore::open(store_folder(), true));
    } else {
      load_folder(rest);
    }
    return;
  }
  put("store/train/part-00000.tokens", rest);
  put("store/train/manifest.json", manifest(static_cast<uint64_t>(kind & 0xF), rest.size(), false, kind & 0x10 ? PackKind::neat : PackKind::none));
  try {
    use(TokenStore::open(store_folder(), true));
  } catch (const InputError&) {
  }
  use(TokenStore::open(store_folder(), false));  // as opened right after it was written: no checksums
}

}  // namespace llmtrain::fuzz
