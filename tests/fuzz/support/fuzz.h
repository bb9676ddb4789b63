// What the fuzz targets share: a scratch folder, the judge of one execution, seeds.
//
// A target is one file that defines
//   const Target& target()     its seeds and the words of its language, and
//   void take(std::string_view input)   one execution: gives the input to a parser and uses the result.
// An execution is fine when it ends, or throws InputError, OperationError or RowError. Everything else is a finding and aborts: another exception, what
// the sanitizers report, more than a second of processor time, more memory than twice the input and 64 MiB.
//
//   fuzz_<target> --seeds DIR   writes its seeds to DIR and its words, as a dictionary of libFuzzer, to DIR.dict; every other option is libFuzzer's.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/log.h"

namespace llmtrain::fuzz {

struct Target {
  std::vector<std::string> seeds;
  std::vector<std::string> words;
};

const Target& target();            // defined by each target
void take(std::string_view input); // defined by each target

// A folder of this process in $LLMTRAIN_FUZZ_SCRATCH (scripts/fuzz sets it to a place in memory and removes it), else in /dev/shm or /tmp.
const std::string& scratch();
// The file `name` in it has this content afterwards. Returns its path.
std::string put(const std::string& name, std::string_view content);
void remove(const std::string& name);

// A log that says nothing.
Log& silent_log();

// Turns "{'a': 1}" into JSON: seeds stay readable.
std::string json(std::string text);

// Words that most targets in JSON want.
std::vector<std::string> json_words(std::vector<std::string> more);

// Reports a finding that no sanitizer sees (a promise that does not hold) and aborts.
[[noreturn]] void finding(const std::string& what);

}  // namespace llmtrain::fuzz
