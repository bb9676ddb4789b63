// The judge of an execution, the scratch folder, seeds (fuzz.h).
#include "support/fuzz.h"

#include <fcntl.h>
#include <sanitizer/allocator_interface.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "data/tools.h"

namespace llmtrain::fuzz {
namespace {

// Bytes allocated and not freed since the execution began, and the most there were. Executions follow each other in one thread; what threads of a parser
// allocate counts too, roughly.
struct Heap {
  bool counting = false;
  long long live = 0, most = 0;
};
Heap& heap() {
  static Heap h;
  return h;
}
void on_malloc(const volatile void*, size_t bytes) {
  Heap& h = heap();
  if (!h.counting) return;
  h.live += static_cast<long long>(bytes);
  if (h.live > h.most) h.most = h.live;
}
void on_free(const volatile void* p) {
  Heap& h = heap();
  if (h.counting && p) h.live -= static_cast<long long>(__sanitizer_get_allocated_size(const_cast<const void*>(p)));
}

double processor_seconds() {
  timespec t{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

void write_all(const std::string& path, std::string_view content) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) finding("cannot write " + path);
  while (!content.empty()) {
    const ssize_t n = ::write(fd, content.data(), content.size());
    if (n <= 0) finding("cannot write " + path);
    content.remove_prefix(static_cast<size_t>(n));
  }
  ::close(fd);
}

std::string dictionary_line(const std::string& word) {
  std::string line = "\"";
  for (const char c : word) {
    const auto b = static_cast<unsigned char>(c);
    char code[8];
    std::snprintf(code, sizeof code, b < 0x20 || b >= 0x7F || c == '"' || c == '\\' ? "\\x%02X" : "%c", b);
    line += code;
  }
  return line + "\"\n";
}

void write_seeds(const std::string& dir) {
  std::filesystem::create_directories(dir);
  size_t n = 0;
  for (const std::string& seed : target().seeds) write_all(dir + "/seed-" + std::to_string(n++), seed);
  std::string words;
  for (const std::string& word : target().words) words += dictionary_line(word);
  write_all(dir + ".dict", words);
}

}  // namespace

const std::string& scratch() {
  static const std::string path = [] {
    const char* given = ::getenv("LLMTRAIN_FUZZ_SCRATCH");
    std::string pattern = std::string(given ? given : std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : "/tmp") + "/llmtrain-fuzz-XXXXXX";
    if (!::mkdtemp(pattern.data())) finding("cannot make " + pattern);
    return pattern;
  }();
  return path;
}

std::string put(const std::string& name, std::string_view content) {
  std::string path = scratch() + "/" + name;
  write_all(path, content);
  return path;
}

void remove(const std::string& name) { std::filesystem::remove_all(scratch() + "/" + name); }

Log& silent_log() {
  static Log log(0, false);
  return log;
}

std::string json(std::string text) {
  for (char& c : text) c = c == '\'' ? '"' : c;
  return text;
}

std::vector<std::string> json_words(std::vector<std::string> more) {
  for (const char* word : {"null", "true", "false", "-1", "1e309", "1.5", "18446744073709551615", "9223372036854775807", "-9223372036854775808", "2147483648",
                           "[]", "{}", "\"\"", "[[", "{\"", "\":", "\\u0000", "\\ud800", "NaN", "Infinity"}) {
    more.emplace_back(word);
  }
  return more;
}

void finding(const std::string& what) {
  std::fprintf(stderr, "FINDING: %s\n", what.c_str());
  std::abort();
}

}  // namespace llmtrain::fuzz

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  using namespace llmtrain::fuzz;
  if (*argc == 3 && std::strcmp((*argv)[1], "--seeds") == 0) {
    write_seeds((*argv)[2]);
    ::_exit(0);
  }
  __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace llmtrain;
  using namespace llmtrain::fuzz;
  constexpr long long kSpare = 64LL << 20;  // docs/reliability.md: at most twice the file and 64 MiB
  static bool first = true;
  const double begin = processor_seconds();
  heap() = {!first, 0, 0};
  try {
    take(std::string_view(reinterpret_cast<const char*>(data), size));
  } catch (const InputError& e) {
    if (*e.what() == '\0') finding("an error without a text");
  } catch (const OperationError&) {
  } catch (const RowError&) {
  }
  heap().counting = false;
  const double seconds = processor_seconds() - begin;
  if (heap().most > kSpare + 2 * static_cast<long long>(size)) finding("held " + std::to_string(heap().most >> 20) + " MiB for " + std::to_string(size) + " bytes");
  if (!first && seconds > 1) finding("took " + std::to_string(seconds) + " s of processor time for " + std::to_string(size) + " bytes");
  first = false;  // the first execution makes tables that stay
  return 0;
}
