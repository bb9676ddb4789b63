// llmtrain init: a model with random weights as a Hugging Face folder.
#include <boost/program_options/value_semantic.hpp>

#include "app/commands.h"
#include "app/help.h"
#include "app/init_model.h"
#include "app/ranks.h"
#include "core/error.h"
#include "core/json.h"
#include "hf/export.h"

namespace po = boost::program_options;

namespace llmtrain {
namespace {

DType parse_weight_type(const std::string& text) {
  const DType dtype = parse_dtype(text, "--dtype");
  if (dtype != DType::float32 && dtype != DType::bfloat16 && dtype != DType::float16) {
    throw InputError("--dtype", "'" + text + "' is no type for weights", "choose float32, bfloat16 or float16");
  }
  return dtype;
}

InitOptions options_of(const CommandLine& line) {
  if (line.words().size() != 2)
    throw InputError("llmtrain init", "needs SRC and OUT", "for example: llmtrain init configs/quickstart-model.json output/random");
  InitOptions options;
  options.source = line.words()[0];
  options.out = line.words()[1];
  const auto seed = line.get<int64_t>("seed");
  if (seed < 0) throw InputError("--seed", std::to_string(seed) + " is below 0");
  options.seed = static_cast<uint64_t>(seed);
  options.dtype = parse_weight_type(line.get<std::string>("dtype"));
  options.tokenizer_from = line.get<std::string>("tokenizer-from", "");
  options.vocab_size = line.get<int64_t>("vocab-size", 0);
  options.max_shard_bytes = parse_shard_size(line.get<std::string>("max-shard-size"), "--max-shard-size");
  options.force = line.has("force");
  if (line.has("tokenizer-from") && options.tokenizer_from.empty()) throw InputError("--tokenizer-from", "is empty", "name a text or dataset file");
  if (line.has("vocab-size") && options.vocab_size <= 0) throw InputError("--vocab-size", std::to_string(options.vocab_size) + " is not above 0");
  return options;
}

std::string report(const InitOptions& options, const InitResult& result, bool as_json) {
  if (as_json) {
    return dump_json(Json{{"out", options.out},
                          {"parameters", result.parameters},
                          {"vocab_size", result.vocab_size},
                          {"bytes", result.bytes},
                          {"dtype", name_of(options.dtype)},
                          {"seed", options.seed},
                          {"tokenizer", result.has_tokenizer}}) +
           "\n";
  }
  return options.out + ": " + std::to_string(result.parameters) + " random parameters in " + name_of(options.dtype) + ", vocabulary of " +
         std::to_string(result.vocab_size) + "\n";
}

}  // namespace

int command_init(const std::vector<std::string>& args, App& app) {
  CommandLine line("init", "SRC OUT [--seed S] [--dtype float32] [--tokenizer-from TEXT --vocab-size N]",
                   "Writes a model with random weights as a Hugging Face folder OUT: matrices normal with config.json's initializer_range, norms 1,\n"
                   "biases 0. SRC is a folder with config.json, a config.json, or a name in Hugging Face's cache; its tokenizer is copied, or a\n"
                   "byte-level BPE tokenizer is learned from TEXT, with the special tokens of the template llama3.");
  line.options.add_options()("seed", po::value<int64_t>()->default_value(42), "seed of the weights")(
      "dtype", po::value<std::string>()->default_value("float32"), "float32, bfloat16 or float16")(
      "tokenizer-from", po::value<std::string>(), "a text, .json or .jsonl file (of these, all strings but the keys)")(
      "vocab-size", po::value<int64_t>(), "entries of the learned tokenizer; left out: config.json's vocab_size")(
      "max-shard-size", po::value<std::string>()->default_value("5GB"), "largest weight file")("force", "write into a folder that is not empty")(
      "json", "print one JSON object");
  line.take_words("SRC and OUT", 2);
  if (!line.parse(args, app)) return kExitDone;
  const InitOptions options = options_of(line);
  return run_on_ranks(app, [&](MpiRuntime&, RankGroup& group) {
    const InitResult result = init_model(options, group, app.log);
    app.print(report(options, result, line.has("json")));
    return int{kExitDone};
  });
}

}  // namespace llmtrain
