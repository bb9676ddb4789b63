// The normalization forms of UAX #15: decompose, order the marks, compose. utf8proc gives the decompositions; ordering and composing are
// done here because utf8proc's ordering is quadratic in a run of marks.
#include <utf8proc.h>

#include <algorithm>
#include <cstring>

#include "data/unicode.h"

namespace llmtrain {
namespace {

constexpr uint32_t kHangulBase = 0xAC00, kLeadBase = 0x1100, kVowelBase = 0x1161, kTailBase = 0x11A7;
constexpr uint32_t kLeads = 19, kVowels = 21, kTails = 28, kHanguls = kLeads * kVowels * kTails;

// Marks assigned after Unicode 9: for the reference normalizer they have combining class 0.
constexpr uint32_t kLaterMarks[][2] = {
    {0x7fd, 0x7fd},     {0x897, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},
    {0x1715, 0x1715},   {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},   {0x10d24, 0x10d27}, {0x10d69, 0x10d6d}, {0x10eab, 0x10eac},
    {0x10efc, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x113b8, 0x113c0}, {0x113c2, 0x113c2},
    {0x113c5, 0x113c5}, {0x113c7, 0x113ca}, {0x113cc, 0x113d0}, {0x113d2, 0x113d2}, {0x113e1, 0x113e2}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
    {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42},
    {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x11f5a, 0x11f5a}, {0x1611e, 0x1612f}, {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f},
    {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}, {0x1e5ee, 0x1e5ef}};
// Code points with a decomposition assigned after Unicode 9: they stay as they are.
constexpr uint32_t kLaterComposites[][2] = {
    {0x32ff, 0x32ff},   {0xa7f1, 0xa7f4},   {0xab69, 0xab69},   {0x105c9, 0x105c9}, {0x105e4, 0x105e4}, {0x10781, 0x10785}, {0x10787, 0x107b0},
    {0x107b2, 0x107ba}, {0x11383, 0x11383}, {0x11385, 0x11385}, {0x1138e, 0x1138e}, {0x11391, 0x11391}, {0x113c5, 0x113c5}, {0x113c7, 0x113c8},
    {0x11938, 0x11938}, {0x16121, 0x16128}, {0x16d68, 0x16d6a}, {0x1ccd6, 0x1ccf9}, {0x1e030, 0x1e06d}, {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9}};

template <size_t n>
bool within(const uint32_t (&ranges)[n][2], uint32_t c) {
  for (const auto& r : ranges) {
    if (c >= r[0] && c <= r[1]) return true;
  }
  return false;
}

bool compatibility(NormalForm form) { return form == NormalForm::kNFKC || form == NormalForm::kNFKD; }
uint8_t change_bit(NormalForm form) { return static_cast<uint8_t>(1u << static_cast<unsigned>(form)); }  // the order of both enums is the same
bool composed(NormalForm form) { return form == NormalForm::kNFC || form == NormalForm::kNFKC; }

// Full decomposition of c into `out` (at most 18 code points: U+FDFA); returns how many.
int decompose(uint32_t c, bool compat, int32_t* out, int capacity) {
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0));
  const utf8proc_ssize_t n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), out, capacity, options, nullptr);
  if (n < 1 || n > capacity) {
    out[0] = static_cast<int32_t>(c);
    return 1;
  }
  return static_cast<int>(n);
}

}  // namespace

const Normalizer& Normalizer::get() {
  static const Normalizer normalizer;
  return normalizer;
}

Normalizer::Normalizer() : combining_(kDense, 0), may_change_(kDense, 0) {
  struct Composite {
    uint32_t c;
    int length;
    int32_t parts[20];
  };
  std::vector<Composite> composites;
  for (uint32_t c = 0; c < kDense; ++c) {
    const utf8proc_property_t* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
    combining_[c] = static_cast<uint8_t>(property->combining_class);
    const bool hangul = c >= kHangulBase && c < kHangulBase + kHanguls;
    if (hangul) {
      may_change_[c] |= kMayChangeD | kMayChangeKD;
      continue;
    }
    if (property->decomp_seqindex == UINT16_MAX || within(kLaterComposites, c)) continue;
    const bool canonical = property->decomp_type == 0;
    may_change_[c] |= canonical ? kMayChangeC | kMayChangeD | kMayChangeKC | kMayChangeKD : kMayChangeKC | kMayChangeKD;
    if (!canonical) continue;
    Composite composite{c, 0, {}};
    composite.length = decompose(c, false, composite.parts, 20);
    if (composite.length < 2) continue;  // a singleton never composes
    int32_t again[20];
    std::copy_n(composite.parts, composite.length, again);
    const auto stable_compose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    // Excluded from composition.
    if (utf8proc_normalize_utf32(again, composite.length, stable_compose) != 1 || again[0] != static_cast<int32_t>(c)) continue;
    may_change_[c] &= static_cast<uint8_t>(~kMayChangeC);
    composites.push_back(composite);
  }
  for (const auto& r : kLaterMarks) std::fill(combining_.begin() + r[0], combining_.begin() + r[1] + 1, uint8_t{0});
  // One level of each composite: all but its last part compose to the first of the pair, so shorter composites come first.
  std::stable_sort(composites.begin(), composites.end(), [](const Composite& a, const Composite& b) { return a.length < b.length; });
  const auto by_key = [](const Pair& a, const Pair& b) { return a.key < b.key; };
  for (int length = 2; length < 20; ++length) {
    std::vector<Pair> made;
    for (const Composite& x : composites) {
      if (x.length != length) continue;
      auto first = static_cast<uint32_t>(x.parts[0]);
      for (int k = 1; k < length - 1 && first != 0; ++k) first = compose(first, static_cast<uint32_t>(x.parts[k]));
      if (first == 0) continue;
      const auto second = static_cast<uint32_t>(x.parts[length - 1]);
      made.push_back({uint64_t{first} << 32 | second, x.c});
      may_change_[second] |= kMayChangeC | kMayChangeKC;
    }
    pairs_.insert(pairs_.end(), made.begin(), made.end());
    std::sort(pairs_.begin(), pairs_.end(), by_key);
  }
  for (uint32_t c = kVowelBase; c < kVowelBase + kVowels; ++c) may_change_[c] |= kMayChangeC | kMayChangeKC;
  for (uint32_t c = kTailBase + 1; c < kTailBase + kTails; ++c) may_change_[c] |= kMayChangeC | kMayChangeKC;
}

uint32_t Normalizer::compose(uint32_t first, uint32_t second) const {
  if (first - kLeadBase < kLeads && second - kVowelBase < kVowels)
      return kHangulBase + ((first - kLeadBase) * kVowels + (second - kVowelBase)) * kTails;
  if (first - kHangulBase < kHanguls && (first - kHangulBase) % kTails == 0 && second - kTailBase - 1 < kTails - 1)
      return first + (second - kTailBase);
  const uint64_t key = uint64_t{first} << 32 | second;
  const auto at = std::lower_bound(pairs_.begin(), pairs_.end(), key, [](const Pair& p, uint64_t k) { return p.key < k; });
  return at != pairs_.end() && at->key == key ? at->composed : 0;
}

bool Normalizer::is_surely_normal(std::string_view text, NormalForm form) const {
  const uint8_t bit = change_bit(form);
  uint8_t last = 0;
  for (size_t i = 0; i < text.size();) {
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      last = 0;
      ++i;
      for (uint64_t eight; text.size() - i >= 8; i += 8) {  // ASCII, eight bytes at a time
        std::memcpy(&eight, text.data() + i, 8);
        if (eight & 0x8080808080808080u) break;
      }
      continue;
    }
    size_t length = 0;
    const uint32_t c = utf8_decode(text.data() + i, length);
    i += length;
    if (c >= kDense) {
      last = 0;
      continue;
    }
    if (may_change_[c] & bit) return false;
    const uint8_t ccc = combining_[c];
    if (ccc != 0 && last > ccc) return false;
    last = ccc;
  }
  return true;
}

// Only the surroundings of what may change are rewritten: from the last starter that cannot be touched to the next one.
void Normalizer::append(std::string_view text, NormalForm form, std::string& out) const {
  const uint8_t bit = change_bit(form);
  size_t copied = 0;   // text before this offset is in `out`
  size_t starter = 0;  // start of the last code point with class 0 that does not change by itself
  uint8_t last = 0;
  for (size_t i = 0; i < text.size();) {
    size_t length = 0;
    const uint32_t c = utf8_decode(text.data() + i, length);
    const bool changes = c < kDense && (may_change_[c] & bit);
    const uint8_t ccc = combining_class(c);
    if (!changes && (ccc == 0 || last <= ccc)) {
      if (ccc == 0) starter = i;
      last = ccc;
      i += length;
      continue;
    }
    // Collect up to the next code point that is a starter and unchangeable.
    size_t end = i + length;
    while (end < text.size()) {
      size_t n = 0;
      const uint32_t d = utf8_decode(text.data() + end, n);
      if (combining_class(d) == 0 && !(d < kDense && (may_change_[d] & bit))) break;
      end += n;
    }
    const size_t begin = std::max(copied, starter);
    out.append(text, copied, begin - copied);
    append_slow(text.substr(begin, end - begin), form, out);
    copied = end;
    starter = end;
    last = 0;
    i = end;
  }
  out.append(text, copied, std::string_view::npos);
}

void Normalizer::append_slow(std::string_view text, NormalForm form, std::string& out) const {
  struct Unit {
    uint32_t c;
    uint8_t ccc;
  };
  std::vector<Unit> units;
  units.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    size_t length = 0;
    const uint32_t c = utf8_decode(text.data() + i, length);
    i += length;
    int32_t parts[20];
    int n = 1;
    parts[0] = static_cast<int32_t>(c);
    if (c >= 0x80 && !within(kLaterComposites, c)) n = decompose(c, compatibility(form), parts, 20);
    for (int k = 0; k < n; ++k) units.push_back({static_cast<uint32_t>(parts[k]), combining_class(static_cast<uint32_t>(parts[k]))});
  }
  for (size_t i = 0; i < units.size();) {  // canonical ordering
    size_t end = i;
    while (end < units.size() && units[end].ccc != 0) ++end;
    const auto lower = [](const Unit& a, const Unit& b) { return a.ccc < b.ccc; };
    std::stable_sort(units.begin() + static_cast<long>(i), units.begin() + static_cast<long>(end), lower);
    i = std::max(end, i + 1);
  }
  if (composed(form)) {
    size_t put = 0, starter = SIZE_MAX;
    uint8_t last = 0;  // class of the last unit kept after the starter
    for (const Unit u : units) {
      if (starter != SIZE_MAX && (put == starter + 1 || last < u.ccc)) {  // nothing in between of the same or a higher class
        if (const uint32_t c = compose(units[starter].c, u.c)) {
          units[starter].c = c;
          continue;
        }
      }
      if (u.ccc == 0) starter = put;
      last = u.ccc;
      units[put++] = u;
    }
    units.resize(put);
  }
  for (const Unit u : units) utf8_append(out, u.c);
}

}  // namespace llmtrain
