#include "app/convert_model.h"

#include <unistd.h>

#include <filesystem>
#include <memory>

#include "app/checkpoint_source.h"
#include "core/error.h"
#include "core/file.h"
#include "hf/copy_tensors.h"
#include "model/model_weights.h"
#include "train/same_model.h"

namespace llmtrain {
namespace {

// A model to convert, whatever it is stored as.
struct OpenSource {
  std::unique_ptr<TensorSource> tensors;
  const ModelFolder* weights = nullptr;  // of `tensors`, where it is a Hugging Face folder
  ExportChoices choices;  // of the small files; dtype is set later
};

OpenSource open_hugging_face(const std::string& folder, Log& log) {
  const ModelConfig config = load_model_config(folder);
  auto weights = std::make_unique<ModelWeights>(config, folder);
  for (const std::string& note : config.notes) log.info(note);
  if (!weights->ignored().empty()) {
    log.info(std::to_string(weights->ignored().size()) + " tensors are not part of the model and are left out: " + weights->ignored().front() +
             (weights->ignored().size() > 1 ? ", …" : ""));
  }
  OpenSource source;
  source.choices.source_folder = folder;
  source.choices.config = config.raw;
  source.weights = &weights->folder();
  source.tensors = std::move(weights);
  return source;
}

// config.json, tokenizer and chat template lie in the checkpoint as the run read them. Collective.
OpenSource open_checkpoint_source(const std::string& folder, RankGroup& group, Log& log) {
  auto checkpoint = std::make_unique<CheckpointSource>(folder, group);
  log.info(folder + ": step " + std::to_string(checkpoint->manifest().step) + ", every digest is right");
  OpenSource source;
  run_on_all_or_fail(group, [&] {
    source.choices.source_folder = folder;
    source.choices.config = load_model_config(folder).raw;
  });
  source.tensors = std::move(checkpoint);
  return source;
}

void check_out(const ConvertOptions& options) {
  std::error_code error;
  if (options.out.empty()) throw InputError("OUT", "a folder is expected");
  if (is_regular_file(options.out)) throw InputError(options.out, "is a file; a folder is expected");
  if (is_directory(options.out) && std::filesystem::equivalent(options.out, resolve_model(options.source, "SRC"), error)) {
    throw InputError(options.out, "is the folder that is read", "name another folder for the result");
  }
  if (is_regular_file(options.out + "/manifest.json")) {  // even with --force: its digests cover config.json and the tokenizer
    throw InputError(options.out, "is a checkpoint, which a model written into it would damage", "name another folder for the result");
  }
  if (is_directory(options.out) && !std::filesystem::is_empty(options.out) && !options.force) {
    throw InputError(options.out, "is not empty", "name another folder, or give --force to replace the model in it");
  }
}

}  // namespace

ConvertResult convert_model(const ConvertOptions& options, RankGroup& group, Log& log) {
  OpenSource source;
  std::vector<SmallFile> small_files;
  ConvertResult result;
  char checkpoint = is_checkpoint_folder(options.source) ? 1 : 0;
  group.broadcast(&checkpoint, 1, 0);  // one answer: a rank whose node has another folder there is refused by what it reads, not left waiting
  run_on_all_or_fail(group, [&] {
    if (group.rank() == 0) check_out(options);
    if (!checkpoint) source = open_hugging_face(resolve_model(options.source, "SRC"), log);
  });
  if (checkpoint) source = open_checkpoint_source(options.source, group, log);
  if (source.weights) check_same_model(group, source.choices.source_folder, *source.weights);
  run_on_all_or_fail(group, [&] {
    const DType stored = source.tensors->dtype();
    result.dtype = options.dtype.value_or(stored == DType::float64 ? DType::float32 : stored);
    source.choices.dtype = result.dtype;
    if (group.rank() == 0) small_files = make_small_files(source.choices);
  });
  source.tensors->verify(group);

  FolderExport out(group, ExportPlan(source.tensors->tensors(), result.dtype, options.max_shard_bytes), options.out);
  result.files = out.plan().files().size();
  result.bytes = out.plan().total_bytes();
  result.parameters = static_cast<int64_t>(result.bytes / size_of(result.dtype));
  const bool terminal = ::isatty(2) == 1;
  copy_tensors(group, *source.tensors, out, [&](uint64_t done, uint64_t total) {
    if (terminal) log.bar("converting: " + std::to_string(done * 100 / total) + " %", done == total);
  });
  out.finish(small_files);
  return result;
}

}  // namespace llmtrain
