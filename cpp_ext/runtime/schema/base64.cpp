// Decodes base64.
#include "schema/base64.h"

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

bool decode_base64(std::string_view text, std::vector<uint8_t>* bytes, bool* is_canonical) {
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
  bool has_rest = false;
  for (; padding > 0; --padding) {
    has_rest |= bytes->back() != 0;
    bytes->pop_back();
  }
  if (is_canonical != nullptr) *is_canonical = !has_rest;
  return true;
}

}  // namespace mmedge::runtime
