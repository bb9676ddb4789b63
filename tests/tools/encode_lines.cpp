// Encodes (or decodes) what comes on standard input with the tokenizer of a folder, for comparisons with other tokenizers.
//   encode_lines FOLDER            each input line is a JSON string; the output line is the JSON list of its ids
//   encode_lines FOLDER --decode   each input line is a JSON list of ids; the output line is the JSON string of their text
//   encode_lines FOLDER --file F   encodes a whole file once; prints bytes, tokens, seconds to load and to encode
#include <chrono>
#include <cstdio>
#include <iostream>
#include <string>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "data/tokenizer.h"

using namespace llmtrain;

namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void encode_line(Encoder& encoder, const std::string& line, std::string& out) {
  std::vector<int32_t> ids;
  encoder.encode(parse_json(line, "standard input").get<std::string>(), ids);
  out = "[";
  for (size_t i = 0; i < ids.size(); ++i) out += (i ? "," : "") + std::to_string(ids[i]);
  out += "]\n";
}

int run(int argc, char** argv) {
  if (argc < 2) throw InputError("encode_lines FOLDER [--decode | --file F]");
  const std::string mode = argc > 2 ? argv[2] : "";
  const double start = seconds();
  const Tokenizer tokenizer = Tokenizer::load(argv[1]);
  Encoder encoder(tokenizer);
  const double loaded = seconds();
  if (mode == "--file" && argc > 3) {
    const std::string text = read_file(argv[3]);
    std::vector<int32_t> ids;
    const double begin = seconds();
    encoder.encode(text, ids);
    const double took = seconds() - begin;
    std::printf("{\"bytes\": %zu, \"tokens\": %zu, \"load_seconds\": %.4f, \"encode_seconds\": %.4f, \"mb_per_second\": %.2f}\n", text.size(),
        ids.size(), loaded - start,
                took, static_cast<double>(text.size()) / took / 1e6);
    return 0;
  }
  std::ios::sync_with_stdio(false);
  std::string line, out;
  while (std::getline(std::cin, line)) {
    if (mode == "--decode") {
      out = dump_json(tokenizer.decode(parse_json(line, "standard input").get<std::vector<int32_t>>(), false)) + "\n";
    } else {
      encode_line(encoder, line, out);
    }
    std::cout << out;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "encode_lines: %s\n", e.what());
    return kExitInput;
  }
}
