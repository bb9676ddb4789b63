// llmtrain convert: a model as a Hugging Face folder of another element type or shard size.
#include <boost/program_options/value_semantic.hpp>

#include "app/commands.h"
#include "app/convert_model.h"
#include "app/help.h"
#include "app/ranks.h"
#include "comm/context.h"
#include "core/error.h"
#include "core/json.h"

namespace po = boost::program_options;

namespace llmtrain {
namespace {

ConvertOptions options_of(const CommandLine& line) {
  if (line.words().size() != 2) throw InputError("llmtrain convert", "SRC and OUT are expected", "llmtrain convert SRC OUT [--dtype bfloat16]");
  ConvertOptions options;
  options.source = line.words()[0];
  options.out = line.words()[1];
  options.force = line.has("force");
  options.max_shard_bytes = parse_shard_size(line.get<std::string>("max-shard-size", "5GB"), "--max-shard-size");
  if (line.has("dtype")) {
    const std::string name = line.get<std::string>("dtype");
    options.dtype = parse_dtype(name, "--dtype");
    if (options.dtype != DType::float32 && options.dtype != DType::bfloat16 && options.dtype != DType::float16) {
      throw InputError("--dtype", "'" + name + "' is not a type that models are stored in", "known: float32, bfloat16, float16");
    }
  }
  return options;
}

std::string report(const ConvertOptions& options, const ConvertResult& result, bool as_json) {
  if (as_json) {
    return dump_json(Json{{"out", options.out},
                          {"dtype", name_of(result.dtype)},
                          {"parameters", result.parameters},
                          {"bytes", result.bytes},
                          {"files", result.files}}) +
           "\n";
  }
  return options.out + ": " + std::to_string(result.parameters) + " parameters in " + name_of(result.dtype) + ", " + std::to_string(result.bytes) +
         " bytes in " + std::to_string(result.files) + (result.files == 1 ? " file" : " files") + "\n";
}

}  // namespace

int command_convert(const std::vector<std::string>& args, App& app) {
  CommandLine line("convert", "SRC OUT [--dtype float32|bfloat16|float16] [--max-shard-size 5GB] [--force] [--json]",
                   "Writes the model SRC (a Hugging Face folder, or ORG/NAME of its cache) as the Hugging Face folder OUT, with its tokenizer.\n"
                   "Reads and writes in pieces, by one process or many (mpirun, srun).");
  line.options.add_options()("dtype", po::value<std::string>(), "the element type of OUT; left out: as SRC is stored")(
      "max-shard-size", po::value<std::string>(), "weight files are at most this large (5GB, 500MB, 2GiB)")(
      "force", "write into a folder that is not empty: the model in it is replaced")("json", "print the result as one JSON object");
  line.take_words("SRC OUT", 2);
  if (!line.parse(args, app)) return kExitDone;
  const ConvertOptions options = options_of(line);

  return run_on_ranks(app, [&](MpiRuntime&, RankGroup& group) {
    const ConvertResult result = convert_model(options, group, app.log);
    app.print(report(options, result, line.has("json")));
    return int{kExitDone};
  });
}

}  // namespace llmtrain
