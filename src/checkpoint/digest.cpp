#include "checkpoint/digest.h"

#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>  // the same functions, with the widest vectors that this processor has
#else
#include <xxhash.h>
#endif

#include <algorithm>
#include <cstdio>
#include <vector>

#include "core/error.h"
#include "core/file.h"

namespace llmtrain {

struct Digest::State {
  XXH3_state_t* xxh = XXH3_createState();
  State() { XXH3_128bits_reset(xxh); }
  ~State() { XXH3_freeState(xxh); }
};

Digest::Digest() : state_(std::make_unique<State>()) {}
Digest::~Digest() = default;
void Digest::add(const void* data, size_t bytes) { XXH3_128bits_update(state_->xxh, data, bytes); }

namespace {
std::string hex_of(XXH128_hash_t h) {
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(h.high64), static_cast<unsigned long long>(h.low64));
  return text;
}
}  // namespace

std::string Digest::hex() const { return hex_of(XXH3_128bits_digest(state_->xxh)); }

std::string digest_of(std::string_view text) { return hex_of(XXH3_128bits(text.data(), text.size())); }

std::string digest_of_file(const std::string& path) {
  const File file = File::open_for_reading(path);
  const uint64_t size = file.size();
  std::vector<char> block(size_t{256} << 10);  // read and digested while it is in the core's own cache
  Digest digest;
  for (uint64_t at = 0; at < size;) {
    const size_t n = static_cast<size_t>(std::min<uint64_t>(block.size(), size - at));
    file.read_at(block.data(), n, at);
    digest.add(block.data(), n);
    at += n;
  }
  return digest.hex();
}

}  // namespace llmtrain
