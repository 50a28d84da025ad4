// A SentencePiece table: the size of a trie in 4 bytes, the trie, texts that end with a 0 byte.
#include "schema/charsmap.h"

#include <algorithm>

#include "schema/read.h"

namespace mmedge::runtime {
namespace {

// Value of a character of base64, or -1.
int base64_value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

}  // namespace

bool decode_base64(std::string_view text, std::vector<uint8_t>* bytes) {
  bytes->clear();
  if (text.size() % 4 != 0) return false;
  size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') ++padding;
  bytes->reserve(text.size() / 4 * 3);
  uint32_t group = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    const bool is_padding = at >= text.size() - padding;
    const int value = is_padding ? 0 : base64_value(text[at]);
    if (value < 0) return false;
    group = group << 6 | static_cast<uint32_t>(value);
    if (at % 4 != 3) continue;
    for (int shift = 16; shift >= 0; shift -= 8) bytes->push_back(group >> shift & 0xff);
    group = 0;
  }
  bytes->resize(bytes->size() - padding);
  return true;
}

int64_t longest_replacement(const std::optional<JsonValue>& value, const std::string& where) {
  if (!value || !value->is(JsonKind::kString)) {
    throw Misfit(where, "a table in base64", value ? show(*value) : "null");
  }
  std::vector<uint8_t> table;
  if (!decode_base64(value->string(), &table) || table.size() < 4) {
    throw Misfit(where, "a table in base64", "what is none");
  }
  const size_t size = table[0] | table[1] << 8 | table[2] << 16 | static_cast<size_t>(table[3]) << 24;
  if (size % 4 != 0 || size < 4 || table.size() - 4 < size) {
    throw Misfit(where, "a table and its texts", "a table of " + std::to_string(size) + " bytes");
  }
  int64_t longest = 1, length = 0;
  for (size_t at = 4 + size; at < table.size(); ++at) {
    length = table[at] == 0 ? 0 : length + 1;
    longest = std::max(longest, length);
  }
  return longest;
}

}  // namespace mmedge::runtime
