#include "data/unicode.h"

#include <simdjson.h>
#include <utf8proc.h>

namespace llmtrain {
namespace {

struct ClassRange {
  uint32_t first, last;
  CharClass value;
};

// What Unicode 15.1 and 16 added to the letters, marks and numbers of Unicode 15 (UnicodeData.txt 16.0).
constexpr ClassRange kAdded[] = {
    {0x897, 0x897, CharClass::kM},       {0x1c89, 0x1c89, CharClass::kLu},    {0x1c8a, 0x1c8a, CharClass::kLl},    {0xa7cb, 0xa7cc, CharClass::kLu},
    {0xa7cd, 0xa7cd, CharClass::kLl},    {0xa7da, 0xa7da, CharClass::kLu},    {0xa7db, 0xa7db, CharClass::kLl},    {0xa7dc, 0xa7dc, CharClass::kLu},
    {0x105c0, 0x105f3, CharClass::kLo},  {0x10d40, 0x10d49, CharClass::kNd},  {0x10d4a, 0x10d4d, CharClass::kLo},  {0x10d4e, 0x10d4e, CharClass::kLm},
    {0x10d4f, 0x10d4f, CharClass::kLo},  {0x10d50, 0x10d65, CharClass::kLu},  {0x10d69, 0x10d6d, CharClass::kM},   {0x10d6f, 0x10d6f, CharClass::kLm},
    {0x10d70, 0x10d85, CharClass::kLl},  {0x10ec2, 0x10ec4, CharClass::kLo},  {0x10efc, 0x10efc, CharClass::kM},   {0x11380, 0x11389, CharClass::kLo},
    {0x1138b, 0x1138b, CharClass::kLo},  {0x1138e, 0x1138e, CharClass::kLo},  {0x11390, 0x113b5, CharClass::kLo},  {0x113b7, 0x113b7, CharClass::kLo},
    {0x113b8, 0x113c0, CharClass::kM},   {0x113c2, 0x113c2, CharClass::kM},   {0x113c5, 0x113c5, CharClass::kM},   {0x113c7, 0x113ca, CharClass::kM},
    {0x113cc, 0x113d0, CharClass::kM},   {0x113d1, 0x113d1, CharClass::kLo},  {0x113d2, 0x113d2, CharClass::kM},   {0x113d3, 0x113d3, CharClass::kLo},
    {0x113e1, 0x113e2, CharClass::kM},   {0x116d0, 0x116e3, CharClass::kNd},  {0x11bc0, 0x11be0, CharClass::kLo},  {0x11bf0, 0x11bf9, CharClass::kNd},
    {0x11f5a, 0x11f5a, CharClass::kM},   {0x13460, 0x143fa, CharClass::kLo},  {0x16100, 0x1611d, CharClass::kLo},  {0x1611e, 0x1612f, CharClass::kM},
    {0x16130, 0x16139, CharClass::kNd},  {0x16d40, 0x16d42, CharClass::kLm},  {0x16d43, 0x16d6a, CharClass::kLo},  {0x16d6b, 0x16d6c, CharClass::kLm},
    {0x16d70, 0x16d79, CharClass::kNd},  {0x18cff, 0x18cff, CharClass::kLo},  {0x1ccf0, 0x1ccf9, CharClass::kNd},  {0x1e5d0, 0x1e5ed, CharClass::kLo},
    {0x1e5ee, 0x1e5ef, CharClass::kM},   {0x1e5f0, 0x1e5f0, CharClass::kLo},  {0x1e5f1, 0x1e5fa, CharClass::kNd},
    {0x2ebf0, 0x2ee5d, CharClass::kLo}};

// White_Space (PropList.txt) but \r and \n; in \w though neither letter, mark nor number: joiners and circled letters (Other_Alphabetic).
constexpr ClassRange kExact[] = {
    {0x9, 0x9, CharClass::kSpace},             {0xb, 0xc, CharClass::kSpace},             {0x20, 0x20, CharClass::kSpace},
    {0x85, 0x85, CharClass::kSpace},           {0xa0, 0xa0, CharClass::kSpace},           {0x1680, 0x1680, CharClass::kSpace},
    {0x2000, 0x200a, CharClass::kSpace},       {0x2028, 0x2029, CharClass::kSpace},       {0x202f, 0x202f, CharClass::kSpace},
    {0x205f, 0x205f, CharClass::kSpace},       {0x3000, 0x3000, CharClass::kSpace},       {0xa, 0xa, CharClass::kNewline},
    {0xd, 0xd, CharClass::kNewline},           {0x200c, 0x200d, CharClass::kWordOther},   {0x24b6, 0x24e9, CharClass::kWordOther},
    {0x1f130, 0x1f149, CharClass::kWordOther}, {0x1f150, 0x1f169, CharClass::kWordOther}, {0x1f170, 0x1f189, CharClass::kWordOther}};

CharClass from_category(utf8proc_propval_t category) {
  switch (category) {
    case UTF8PROC_CATEGORY_LU: return CharClass::kLu;
    case UTF8PROC_CATEGORY_LL: return CharClass::kLl;
    case UTF8PROC_CATEGORY_LT: return CharClass::kLt;
    case UTF8PROC_CATEGORY_LM: return CharClass::kLm;
    case UTF8PROC_CATEGORY_LO: return CharClass::kLo;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME: return CharClass::kM;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL: return CharClass::kNd;
    case UTF8PROC_CATEGORY_NO: return CharClass::kNo;
    case UTF8PROC_CATEGORY_PC: return CharClass::kWordOther;
    default: return CharClass::kOther;
  }
}

// Length of the valid sequence at p, or minus the length of the maximal broken part (Unicode table 3-7).
int sequence_at(const unsigned char* p, size_t n) {
  const unsigned char b = p[0];
  if (b < 0x80) return 1;
  int need = 0;
  unsigned char low = 0x80, high = 0xBF;  // bounds of the second byte
  if (b >= 0xC2 && b <= 0xDF) {
    need = 1;
  } else if (b >= 0xE0 && b <= 0xEF) {
    need = 2;
    if (b == 0xE0) low = 0xA0;
    if (b == 0xED) high = 0x9F;
  } else if (b >= 0xF0 && b <= 0xF4) {
    need = 3;
    if (b == 0xF0) low = 0x90;
    if (b == 0xF4) high = 0x8F;
  } else {
    return -1;
  }
  for (int k = 1; k <= need; ++k) {
    if (static_cast<size_t>(k) >= n || p[k] < low || p[k] > high) return -k;
    low = 0x80;
    high = 0xBF;
  }
  return need + 1;
}

}  // namespace

void utf8_append(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

bool utf8_is_valid(std::string_view text) { return simdjson::validate_utf8(text.data(), text.size()); }

std::string utf8_repaired(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 16);
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  for (size_t i = 0; i < text.size();) {
    const int n = sequence_at(p + i, text.size() - i);
    if (n > 0) {
      out.append(text, i, static_cast<size_t>(n));
    } else {
      out += "\xEF\xBF\xBD";
    }
    i += static_cast<size_t>(n > 0 ? n : -n);
  }
  return out;
}

const UnicodeClasses& UnicodeClasses::get() {
  static const UnicodeClasses classes;
  return classes;
}

UnicodeClasses::UnicodeClasses() : dense_(kDense, CharClass::kOther) {
  std::vector<bool> assigned(kDense);
  for (uint32_t c = 0; c < kDense; ++c) {
    const utf8proc_propval_t category = utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->category;
    dense_[c] = from_category(category);
    assigned[c] = category != UTF8PROC_CATEGORY_CN;
  }
  for (const ClassRange& r : kAdded) {
    for (uint32_t c = r.first; c <= r.last; ++c) {
      if (!assigned[c]) dense_[c] = r.value;
    }
  }
  for (const ClassRange& r : kExact) {
    for (uint32_t c = r.first; c <= r.last; ++c) dense_[c] = r.value;
  }
}

}  // namespace llmtrain
