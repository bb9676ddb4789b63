// llmtrain generate: text from a model folder, streamed as it comes.
#include <unistd.h>

#include <algorithm>
#include <boost/program_options/value_semantic.hpp>
#include <chrono>
#include <iostream>
#include <optional>
#include <string>

#include "app/commands.h"
#include "app/help.h"
#include "app/ranks.h"
#include "core/error.h"
#include "core/json.h"
#include "data/templates.h"
#include "train/generate.h"
#include "train/model_setup.h"
#include "train/same_model.h"

namespace po = boost::program_options;

namespace llmtrain {
namespace {

constexpr int64_t kPrefillTokens = 1024;  // of a prompt at once
constexpr size_t kMaxPromptBytes = size_t{64} << 20;

std::string read_stdin() {
  std::string text;
  char buffer[65536];
  for (;;) {
    const ssize_t n = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("read", "stdin", errno);
    if (n == 0) break;
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > kMaxPromptBytes) throw InputError("stdin", "the prompt exceeds 64 MiB", "");
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// The prompt as ids: rendered by a template, or the text as it is behind the tokenizer's BOS where it wants one.
struct Prompt {
  std::vector<int32_t> ids;
  std::vector<int32_t> stop_ids;
};

Prompt templated_prompt(const Tokenizer& tokenizer, const std::string& name, const std::string& text, const std::string& system) {
  const TemplateChoice choice = choose_template(name == "auto" ? "" : name, tokenizer, false, std::nullopt, "");
  const SpecialTokens tokens = special_tokens(choice.tmpl, tokenizer);
  Prompt prompt;
  Encoder encoder(tokenizer);
  const auto elements = render_messages(choice.tmpl, tokens, {{Role::user, text}}, system.empty() ? choice.tmpl.default_system : system, "", "");
  for (const Element& element : elements.front()) {
    if (element.token >= 0) {
      prompt.ids.push_back(element.token);
    } else {
      encoder.encode(element.text, prompt.ids);
    }
  }
  prompt.stop_ids = tokens.stop_ids;
  return prompt;
}

Prompt plain_prompt(const Tokenizer& tokenizer, const std::string& text) {
  Prompt prompt;
  if (tokenizer.add_bos_token() && tokenizer.bos_id() >= 0) prompt.ids.push_back(tokenizer.bos_id());
  Encoder(tokenizer).encode(text, prompt.ids);
  if (tokenizer.eos_id() >= 0) prompt.stop_ids.push_back(tokenizer.eos_id());
  return prompt;
}

// The stop ids of generation_config.json, which a training run may have set.
void add_stop_ids(const ModelSetup& model, std::vector<int32_t>& stop_ids) {
  for (const int64_t id : model.config.eos_token_ids) stop_ids.push_back(static_cast<int32_t>(id));
  const std::string path = model.folder + "/generation_config.json";
  if (!is_regular_file(path)) return;
  const Json json = parse_json_file(path, size_t{1} << 20);
  const Json eos = json.is_object() && json.contains("eos_token_id") ? json["eos_token_id"] : Json();
  const auto add = [&](const Json& id) {
    if (id.is_number_integer()) stop_ids.push_back(static_cast<int32_t>(id.get<int64_t>()));
  };
  if (eos.is_array()) {
    for (const Json& id : eos) add(id);
  } else {
    add(eos);
  }
}

struct Request {
  std::string model, prompt, template_name, system;
  int64_t max_new_tokens = 0;
  SamplingOptions sampling;
  std::optional<DType> dtype;
  std::string device, communicator;
};

Request request_of(const CommandLine& line) {
  Request r;
  if (!line.has("model"))
    throw InputError("llmtrain generate", "--model is missing", "name the folder of a model: llmtrain generate --model DIR --prompt TEXT");
  r.model = line.get<std::string>("model");
  r.template_name = line.get<std::string>("template", "");
  r.system = line.get<std::string>("system", "");
  if (!r.system.empty() && r.template_name.empty()) throw InputError("--system", "needs a template", "give --template NAME, or --template auto");
  r.max_new_tokens = line.get<int64_t>("max-new-tokens");
  if (r.max_new_tokens < 1) throw InputError("--max-new-tokens", "must be at least 1", "");
  r.sampling.temperature = line.get<double>("temperature");
  r.sampling.top_p = line.get<double>("top-p");
  r.sampling.top_k = line.get<int64_t>("top-k");
  r.sampling.seed = line.get<uint64_t>("seed");
  check_sampling(r.sampling);
  if (line.has("dtype")) r.dtype = parse_dtype(line.get<std::string>("dtype"), "--dtype");
  if (r.dtype && *r.dtype != DType::float32 && *r.dtype != DType::bfloat16)
    throw InputError("--dtype", "generation computes in float32 or bfloat16", "");
  r.device = line.get<std::string>("device");
  if (r.device != "auto" && r.device != "cpu" && r.device != "cuda") throw InputError("--device", "'" + r.device + "' is unknown", "choose auto, cpu or cuda");
  r.communicator = line.get<std::string>("communicator");
  return r;
}

// bfloat16 where the weights were saved so, else float32.
DType compute_type(const Request& request, const ModelSetup& model) {
  if (request.dtype) return *request.dtype;
  return model.config.dtype == DType::bfloat16 ? DType::bfloat16 : DType::float32;
}

struct Answer {
  std::string text;
  Generated generated;
  double seconds = 0;
};

std::string answer_json(const Prompt& prompt, const Request& request, const Answer& answer) {
  Json json;
  json["prompt"] = request.prompt;
  json["text"] = answer.text;
  json["ids"] = answer.generated.ids;
  json["prompt_tokens"] = prompt.ids.size();
  json["new_tokens"] = answer.generated.ids.size();
  json["finish"] = answer.generated.stopped ? "stop" : "length";
  json["seconds"] = answer.seconds;
  json["tokens_per_second"] = answer.seconds > 0 ? static_cast<double>(answer.generated.ids.size()) / answer.seconds : 0.0;
  return dump_json(json);
}

EngineOptions engine_options(const Request& request, const ModelSetup& model, const Prompt& prompt, int64_t new_tokens) {
  EngineOptions e;
  e.compute = compute_type(request, model);
  e.training = false;
  e.device = request.device;
  e.communicator = request.communicator;
  e.device_where = "--device";
  e.communicator_where = "--communicator";
  const auto length = static_cast<int64_t>(prompt.ids.size());
  e.max_tokens = e.longest_sequence = std::clamp<int64_t>(length, 1, kPrefillTokens);
  e.max_positions = e.cache_tokens = length + new_tokens;
  return e;
}

// New tokens that the model's positions leave room for.
int64_t room(const Request& request, const ModelSetup& model, const Prompt& prompt) {
  const auto length = static_cast<int64_t>(prompt.ids.size());
  const int64_t most = model.config.max_position_embeddings;
  if (length == 0) throw InputError("--prompt", "is empty, and the tokenizer puts no BOS before it", "give a prompt");
  if (length >= most)
    throw InputError("--prompt", "has " + std::to_string(length) + " tokens, and the model's max_position_embeddings is " + std::to_string(most),
                     "shorten it");
  return std::min(request.max_new_tokens, most - length);
}

}  // namespace

int command_generate(const std::vector<std::string>& args, App& app) {
  CommandLine line("generate", "--model DIR [--prompt TEXT] [--template NAME] [options]",
                   "Continues a prompt (from --prompt or stdin) with a model folder and streams the text. Without --template the prompt is\n"
                   "continued as it is; with one it becomes the user's message of a conversation. Greedy unless --temperature is given. Under\n"
                   "mpirun the model is spread over the ranks.");
  // clang-format off: one option a line
  line.options.add_options()
      ("model", po::value<std::string>(), "a Hugging Face folder, or ORG/NAME in Hugging Face's cache")
      ("prompt", po::value<std::string>(), "left out: read from stdin")
      ("template", po::value<std::string>(), "as in training (llama3, qwen …); auto: by the folder's chat template")
      ("system", po::value<std::string>(), "system message, with a template")
      ("max-new-tokens", po::value<int64_t>()->default_value(256), "at most")
      ("temperature", po::value<double>()->default_value(0.0, "0"), "0: the most likely token")
      ("top-p", po::value<double>()->default_value(1.0, "1"), "nucleus sampling")
      ("top-k", po::value<int64_t>()->default_value(0), "the k most likely tokens only; 0: all")
      ("seed", po::value<uint64_t>()->default_value(0), "of sampling")
      ("dtype", po::value<std::string>(), "float32 or bfloat16; left out: as the weights were saved")
      ("device", po::value<std::string>()->default_value("auto"), "auto, cpu or cuda")
      ("communicator", po::value<std::string>()->default_value("auto"), "auto, mpi, shared, nccl or staged")
      ("json", "one JSON object on one line, at the end");
  // clang-format on
  if (!line.parse(args, app)) return kExitDone;
  return run_on_ranks(app, [&](MpiRuntime& mpi, RankGroup& group) {
    Request request;
    ModelSetup model;
    Prompt prompt;
    int64_t new_tokens = 0;
    run_on_all_or_fail(group, [&] {
      request = request_of(line);
      model = open_model(request.model, "--model");
    });
    check_same_model(group, model);
    run_on_all_or_fail(group, [&] {
      if (group.rank() == 0) request.prompt = line.has("prompt") ? line.get<std::string>("prompt") : read_stdin();
    });
    request.prompt = broadcast_string(group, request.prompt, 0);
    run_on_all_or_fail(group, [&] {
      prompt = request.template_name.empty() ? plain_prompt(*model.tokenizer, request.prompt)
                                             : templated_prompt(*model.tokenizer, request.template_name, request.prompt, request.system);
      add_stop_ids(model, prompt.stop_ids);
      new_tokens = room(request, model, prompt);
    });
    app.log.set_quiet(true);
    Engine engine(mpi, group, model.config, engine_options(request, model, prompt, new_tokens), app.log);
    engine.load_weights(*model.weights);

    Answer answer;
    TextStream stream(*model.tokenizer, prompt.ids);
    const bool streaming = !line.has("json");
    const auto show = [&](const std::string& piece) {
      answer.text += piece;
      if (streaming && !piece.empty()) app.print(piece);
    };
    const auto begin = std::chrono::steady_clock::now();
    answer.generated = generate(engine, prompt.ids, new_tokens, prompt.stop_ids, request.sampling, [&](int32_t id) { show(stream.add(id)); });
    show(stream.finish());
    answer.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    app.print(streaming ? "\n" : answer_json(prompt, request, answer) + "\n");
    return int{kExitDone};
  });
}

}  // namespace llmtrain
