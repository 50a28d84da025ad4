// A trie of bytes, and grapheme clusters.
#include "text/replacement_table.h"

#include <algorithm>

#include "error.h"
#include "schema/base64.h"
#include "schema/utf8.h"

namespace mmedge::runtime {
namespace {

#include "text/unicode_tables.inc"

// Clusters of more bytes are not looked up.
constexpr size_t kLongestCluster = 5;

// In the order of cpp_ext/unicode_tables.py.
enum ClusterClass : uint8_t {
  kOther,
  kControl,
  kExtend,
  kLinker,
  kJoiner,
  kMark,
  kPrepend,
  kLeadingJamo,
  kVowelJamo,
  kTrailingJamo,
  kLeadingVowel,
  kLeadingTrailing,
  kRegional,
  kPicture,
  kConsonant,
};

bool is_hangul_pair(uint8_t before, uint8_t here) noexcept {
  switch (before) {
    case kLeadingJamo:
      return here == kLeadingJamo || here == kVowelJamo || here == kLeadingVowel ||
             here == kLeadingTrailing;
    case kLeadingVowel:
    case kVowelJamo: return here == kVowelJamo || here == kTrailingJamo;
    case kLeadingTrailing:
    case kTrailingJamo: return here == kTrailingJamo;
    default: return false;
  }
}

uint32_t offset_of(uint32_t unit) noexcept { return unit >> 10 << ((unit & 0x200) >> 6); }

}  // namespace

ReplacementTable::ReplacementTable(const std::string& table, const std::string& where)
    : classes_(CodeMap::read_runs(kClusterClasses, sizeof kClusterClasses)) {
  std::vector<uint8_t> bytes;
  if (!decode_base64(table, &bytes) || bytes.size() < 4) {
    throw Error(Code::kBundle, where + ": no table in base64; export the bundle again");
  }
  const auto word = [&](size_t at) {
    return static_cast<uint32_t>(bytes[at] | bytes[at + 1] << 8 | bytes[at + 2] << 16) |
           static_cast<uint32_t>(bytes[at + 3]) << 24;
  };
  const size_t size = word(0);
  if (size % 4 != 0 || size < 4 || bytes.size() - 4 < size) {
    throw Error(Code::kBundle, where + ": no table and its texts; export the bundle again");
  }
  for (size_t at = 4; at < 4 + size; at += 4) units_.push_back(word(at));
  texts_.assign(bytes.begin() + static_cast<std::ptrdiff_t>(4 + size), bytes.end());
  if (utf8_length(texts_) != texts_.size()) {
    throw Error(Code::kBundle, where + ": texts that are not UTF-8; export the bundle again");
  }
}

ReplacementTable::Found ReplacementTable::find(std::string_view text,
                                               std::string_view* replacement) const noexcept {
  size_t at = offset_of(units_[0]);
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte == 0) break;
    at ^= byte;
    if (at >= units_.size()) return Found::kFault;
    const uint32_t unit = units_[at];
    if ((unit & 0x800000ff) != byte) return Found::kNothing;
    at ^= offset_of(unit);
    if (unit >> 8 & 1) {
      if (at >= units_.size()) return Found::kFault;
      const size_t begin = units_[at] & 0x7fffffff;
      if (begin > texts_.size()) return Found::kFault;
      const size_t end = std::min(texts_.find('\0', begin), texts_.size());
      *replacement = std::string_view(texts_).substr(begin, end - begin);
      const bool is_inside = begin < texts_.size() && (static_cast<uint8_t>(texts_[begin]) & 0xc0) == 0x80;
      return is_inside ? Found::kFault : Found::kText;
    }
  }
  return Found::kNothing;
}

size_t ReplacementTable::cluster_end(std::string_view text, size_t at) const noexcept {
  uint32_t character = read_character(text, &at);
  uint8_t before = classes_(character);
  size_t regionals = before == kRegional;
  bool is_picture = before == kPicture;          // with extenders behind it
  bool is_consonant = before == kConsonant, is_linked = false;
  while (at < text.size()) {
    size_t next = at;
    const uint32_t c = read_character(text, &next);
    if (c < 0x80 && before != kPrepend) {
      if (character == '\r' && c == '\n') return next;
      return at;
    }
    const uint8_t here = classes_(c);
    const bool extends = here == kExtend || here == kLinker || here == kJoiner;
    if (before == kControl || here == kControl) return at;
    const bool joins = extends || here == kMark || before == kPrepend || is_hangul_pair(before, here) ||
                       (is_picture && before == kJoiner && here == kPicture) ||
                       (is_consonant && is_linked && here == kConsonant) ||
                       (here == kRegional && regionals % 2 == 1);
    if (!joins) return at;
    regionals = here == kRegional ? regionals + 1 : 0;
    is_picture = here == kPicture || (is_picture && extends && before != kJoiner);
    if (here == kConsonant) {
      is_consonant = true;
      is_linked = false;
    } else if (here == kLinker) {
      is_linked = true;
    } else if (!extends || c == 0x200c) {
      is_consonant = is_linked = false;
    }
    before = here;
    character = c;
    at = next;
  }
  return at;
}

bool ReplacementTable::apply(TextView view, TextBuffer* out) const noexcept {
  const std::string_view text = view.text;
  // A text that a table replaces is as if its characters came from those of the old one, one by one.
  const auto put = [&](std::string_view old, std::string_view fresh, size_t begin) {
    size_t from = 0;
    for (size_t at = 0; at < fresh.size();) {
      out->put(read_character(fresh, &at));
      out->mark_first(begin + from < view.first);
      size_t next = from;
      read_character(old, &next);
      if (next < old.size()) from = next;
    }
  };
  for (size_t at = 0; at < text.size();) {
    const size_t end = cluster_end(text, at);
    std::string_view replacement;
    if (end - at <= kLongestCluster) {
      const Found found = find(text.substr(at, end - at), &replacement);
      if (found == Found::kFault) return false;
      if (found == Found::kText) {
        put(text.substr(at, end - at), replacement, at);
        at = end;
        continue;
      }
    }
    while (at < end) {
      size_t next = at;
      read_character(text, &next);
      const std::string_view letter = text.substr(at, next - at);
      const Found found = find(letter, &replacement);
      if (found == Found::kFault) return false;
      put(letter, found == Found::kText ? replacement : letter, at);
      at = next;
    }
  }
  return true;
}

}  // namespace mmedge::runtime
