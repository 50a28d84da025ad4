// Sets of characters out of the tables in unicode_tables.inc.
#include "text/code_set.h"

#include <algorithm>
#include <iterator>
#include <string>

namespace mmedge::runtime {
namespace {

#include "text/unicode_tables.inc"

// Of kCategories, in its order.
constexpr char kCategoryNames[][3] = {
    "cn", "lu", "ll", "lt", "lm", "lo", "mn", "mc", "me", "nd", "nl", "no", "pc", "pd", "ps",
    "pe", "pi", "pf", "po", "sm", "sc", "sk", "so", "zs", "zl", "zp", "cc", "cf", "co",
};
constexpr uint32_t kL = 0x3e, kM = 0x1c0, kN = 0xe00, kP = 0x7f000, kS = 0x780000,
                   kZ = 0x3800000, kC = 0x1c000001, kLl = 4, kLu = 2, kMn = 0x40,
                   kCcCfCo = 0x1c000000, kNd = 0x200, kCc = 0x4000000;

struct Named {
  const char* name;
  uint32_t categories;
};
constexpr Named kGroups[] = {
    {"l", kL}, {"m", kM}, {"n", kN}, {"p", kP}, {"s", kS}, {"z", kZ}, {"c", kC},
    {"lc", 0xe},
    {"letter", kL}, {"mark", kM}, {"number", kN}, {"punctuation", kP}, {"symbol", kS},
    {"separator", kZ}, {"other", kC},
    {"uppercaseletter", kLu}, {"lowercaseletter", kLl}, {"titlecaseletter", 8},
    {"modifierletter", 0x10}, {"otherletter", 0x20}, {"nonspacingmark", kMn},
    {"spacingmark", 0x80}, {"decimalnumber", kNd}, {"letternumber", 0x400},
    {"othernumber", 0x800}, {"spaceseparator", 0x800000}, {"digit", kNd}, {"cntrl", kCc},
    {"punct", kP},
};

struct Script {
  const char* name;
  const uint8_t* data;
  size_t size;
};
#define MMEDGE_SCRIPT(name, table) {name, table, sizeof(table)}
constexpr Script kScripts[] = {
    MMEDGE_SCRIPT("arabic", kArabicScript),         MMEDGE_SCRIPT("armenian", kArmenianScript),
    MMEDGE_SCRIPT("bengali", kBengaliScript),       MMEDGE_SCRIPT("bopomofo", kBopomofoScript),
    MMEDGE_SCRIPT("cyrillic", kCyrillicScript),     MMEDGE_SCRIPT("devanagari", kDevanagariScript),
    MMEDGE_SCRIPT("ethiopic", kEthiopicScript),     MMEDGE_SCRIPT("georgian", kGeorgianScript),
    MMEDGE_SCRIPT("greek", kGreekScript),           MMEDGE_SCRIPT("gujarati", kGujaratiScript),
    MMEDGE_SCRIPT("gurmukhi", kGurmukhiScript),     MMEDGE_SCRIPT("han", kHanScript),
    MMEDGE_SCRIPT("hangul", kHangulScript),         MMEDGE_SCRIPT("hebrew", kHebrewScript),
    MMEDGE_SCRIPT("hiragana", kHiraganaScript),     MMEDGE_SCRIPT("kannada", kKannadaScript),
    MMEDGE_SCRIPT("katakana", kKatakanaScript),     MMEDGE_SCRIPT("khmer", kKhmerScript),
    MMEDGE_SCRIPT("lao", kLaoScript),               MMEDGE_SCRIPT("latin", kLatinScript),
    MMEDGE_SCRIPT("malayalam", kMalayalamScript),   MMEDGE_SCRIPT("mongolian", kMongolianScript),
    MMEDGE_SCRIPT("myanmar", kMyanmarScript),       MMEDGE_SCRIPT("sinhala", kSinhalaScript),
    MMEDGE_SCRIPT("tamil", kTamilScript),           MMEDGE_SCRIPT("telugu", kTeluguScript),
    MMEDGE_SCRIPT("thai", kThaiScript),             MMEDGE_SCRIPT("tibetan", kTibetanScript),
};
#undef MMEDGE_SCRIPT

CodeSet read_set(const uint8_t* data, size_t size) {
  std::vector<uint32_t> bounds;
  uint32_t at = 0;
  for (const uint8_t* end = data + size; data < end;) {
    bounds.push_back(at += read_number(&data));
    bounds.push_back(at += read_number(&data));
  }
  return CodeSet(std::move(bounds));
}

CodeSet category_set(uint32_t categories) {
  return CodeMap::read_runs(kCategories, sizeof kCategories).with(categories);
}

}  // namespace

uint32_t read_number(const uint8_t** at) {
  uint32_t number = 0;
  for (int shift = 0;; shift += 7) {
    const uint8_t byte = *(*at)++;
    number |= static_cast<uint32_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return number;
  }
}

CodeSet CodeSet::combine(const CodeSet& other, unsigned table) const {
  std::vector<uint32_t> bounds;
  size_t a = 0, b = 0;
  bool is_in = false;
  while (a < bounds_.size() || b < other.bounds_.size()) {
    const uint32_t here = a < bounds_.size() ? bounds_[a] : kEndOfCharacters;
    const uint32_t there = b < other.bounds_.size() ? other.bounds_[b] : kEndOfCharacters;
    const uint32_t at = std::min(here, there);
    // Both may end at the end of all characters.
    while (a < bounds_.size() && bounds_[a] == at) ++a;
    while (b < other.bounds_.size() && other.bounds_[b] == at) ++b;
    const bool now = table >> (2 * (b % 2) + a % 2) & 1;
    if (now != is_in) bounds.push_back(at);
    is_in = now;
  }
  return CodeSet(std::move(bounds));
}

bool CodeSet::is_inside(uint32_t character) const noexcept {
  return (std::upper_bound(bounds_.begin(), bounds_.end(), character) - bounds_.begin()) % 2 != 0;
}

void CodeSet::remember_ascii() {
  for (uint32_t c = 0; c < 128; ++c) {
    if (is_inside(c)) ascii_[c / 64] |= uint64_t{1} << (c % 64);
  }
}

CodeSet unicode_set(UnicodeSet which) {
  const auto word = [] { return read_set(kWord, sizeof kWord); };
  switch (which) {
    case UnicodeSet::kWord: return word();
    case UnicodeSet::kClassWord:
      return word() & ~CodeSet({0xb2, 0xb4, 0xb9, 0xba, 0xbc, 0xbf});
    case UnicodeSet::kAlphabetic: return word() ^ read_set(kAlphabetic, sizeof kAlphabetic);
    case UnicodeSet::kLowercase:
      return category_set(kLl) ^ read_set(kLowercase, sizeof kLowercase);
    case UnicodeSet::kUppercase:
      return category_set(kLu) ^ read_set(kUppercase, sizeof kUppercase);
    case UnicodeSet::kRustWord: return word() ^ read_set(kRustWord, sizeof kRustWord);
    case UnicodeSet::kNumeric: return category_set(kN) ^ read_set(kNumeric, sizeof kNumeric);
    case UnicodeSet::kPunctuation:
      return category_set(kP) ^ read_set(kPunctuation, sizeof kPunctuation);
    case UnicodeSet::kMarks: return category_set(kM) ^ read_set(kMarks, sizeof kMarks);
    case UnicodeSet::kNonspacing:
      return category_set(kMn) ^ read_set(kNonspacing, sizeof kNonspacing);
    case UnicodeSet::kUnprintable:
      return category_set(kCcCfCo) ^ read_set(kUnprintable, sizeof kUnprintable);
  }
  return CodeSet();
}

CodeSet space_set() {
  return CodeSet({9, 14, 32, 33, 0x85, 0x86, 0xa0, 0xa1, 0x1680, 0x1681, 0x2000, 0x200b, 0x2028,
                  0x202a, 0x202f, 0x2030, 0x205f, 0x2060, 0x3000, 0x3001});
}

bool property_set(std::string_view name, CodeSet* out) {
  std::string plain;
  for (const char c : name) {
    if (c == ' ' || c == '-' || c == '_') continue;
    plain.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c);
  }
  uint32_t categories = 0;
  for (size_t i = 0; i < std::size(kCategoryNames); ++i) {
    if (plain == kCategoryNames[i]) categories = 1u << i;
  }
  for (const Named& group : kGroups) {
    if (plain == group.name) categories = group.categories;
  }
  if (categories != 0) {
    *out = category_set(categories);
    return true;
  }
  for (const Script& script : kScripts) {
    if (plain == script.name) {
      *out = read_set(script.data, script.size);
      return true;
    }
  }
  const CodeSet digits({'0', '9' + 1});
  if (plain == "any") *out = CodeSet({0, kEndOfCharacters});
  else if (plain == "ascii") *out = CodeSet({0, 128});
  else if (plain == "assigned") *out = ~category_set(1);
  else if (plain == "word") *out = unicode_set(UnicodeSet::kClassWord);
  else if (plain == "alpha" || plain == "alphabetic") *out = unicode_set(UnicodeSet::kAlphabetic);
  else if (plain == "lower" || plain == "lowercase") *out = unicode_set(UnicodeSet::kLowercase);
  else if (plain == "upper" || plain == "uppercase") *out = unicode_set(UnicodeSet::kUppercase);
  else if (plain == "alnum") *out = unicode_set(UnicodeSet::kAlphabetic) | category_set(kNd);
  else if (plain == "blank") *out = category_set(0x800000) | CodeSet({9, 10});
  else if (plain == "space" || plain == "whitespace") *out = space_set();
  else if (plain == "xdigit") *out = CodeSet({'0', '9' + 1, 'A', 'F' + 1, 'a', 'f' + 1});
  else return false;
  return true;
}

CodeMap CodeMap::read_ranges(const uint8_t* data, size_t size) {
  CodeMap map;
  uint32_t at = 0;
  for (const uint8_t* end = data + size; data < end;) {
    const uint32_t begin = at + read_number(&data);
    if (begin != at || at == 0) {
      map.begins_.push_back(at);
      map.numbers_.push_back(0);
    }
    at = begin + read_number(&data);
    map.begins_.push_back(begin);
    map.numbers_.push_back(*data++);
  }
  map.begins_.push_back(at);
  map.numbers_.push_back(0);
  return map;
}

CodeMap CodeMap::read_runs(const uint8_t* data, size_t size) {
  CodeMap map;
  uint32_t at = 0;
  for (const uint8_t* end = data + size; data < end;) {
    const uint8_t head = *data++;
    map.begins_.push_back(at);
    map.numbers_.push_back(head & 31);
    at += 1 + (head >> 5);
    if (head >> 5 == 7) at += read_number(&data);
  }
  return map;
}

uint8_t CodeMap::operator()(uint32_t character) const noexcept {
  const auto after = std::upper_bound(begins_.begin(), begins_.end(), character);
  return numbers_[static_cast<size_t>(after - begins_.begin()) - 1];
}

CodeSet CodeMap::with(uint32_t numbers) const {
  std::vector<uint32_t> bounds;
  bool is_in = false;
  for (size_t i = 0; i < begins_.size(); ++i) {
    const bool now = numbers >> numbers_[i] & 1;
    if (now != is_in) bounds.push_back(begins_[i]);
    is_in = now;
  }
  if (is_in) bounds.push_back(kEndOfCharacters);
  return CodeSet(std::move(bounds));
}

CodeMap script_map() { return CodeMap::read_ranges(kScriptNumbers, sizeof kScriptNumbers); }

LowerCase::LowerCase() {
  uint32_t at = 0;
  const uint8_t* data = kLower;
  while (data < kLower + sizeof kLower) {
    const uint32_t begin = at + read_number(&data);
    const uint32_t head = read_number(&data), step = 1 + head % 2;
    const uint32_t distance = read_number(&data);
    at = begin + step * (head / 2 - 1) + 1;
    runs_.push_back({begin, at, step,
                     distance % 2 == 0 ? static_cast<int32_t>(distance / 2)
                                       : -static_cast<int32_t>(distance / 2) - 1});
  }
}

uint32_t LowerCase::operator()(uint32_t character) const noexcept {
  if (character < 128) return character >= 'A' && character <= 'Z' ? character + 32 : character;
  auto run = std::upper_bound(runs_.begin(), runs_.end(), character,
                              [](uint32_t c, const Run& each) { return c < each.begin; });
  if (run == runs_.begin()) return character;
  --run;
  if (character >= run->end || (character - run->begin) % run->step != 0) return character;
  return character + static_cast<uint32_t>(run->distance);
}

}  // namespace mmedge::runtime
