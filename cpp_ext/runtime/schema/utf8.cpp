// Reading and writing of UTF-8.
#include "schema/utf8.h"

namespace mmedge::runtime {
namespace {

// Length and smallest character of a form by its first byte; 0 where none begins so.
size_t form_length(uint8_t first) {
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return 2;
  if (first >= 0xe0 && first <= 0xef) return 3;
  if (first >= 0xf0 && first <= 0xf4) return 4;
  return 0;
}

}  // namespace

size_t utf8_length(std::string_view bytes) {
  size_t at = 0;
  while (at < bytes.size()) {
    const auto first = static_cast<uint8_t>(bytes[at]);
    const size_t length = form_length(first);
    if (length == 0 || bytes.size() - at < length) return at;
    for (size_t i = 1; i < length; ++i) {
      if ((static_cast<uint8_t>(bytes[at + i]) & 0xc0) != 0x80) return at;
    }
    if (length > 2) {
      const auto second = static_cast<uint8_t>(bytes[at + 1]);
      if (first == 0xe0 && second < 0xa0) return at;  // longer than need be
      if (first == 0xed && second > 0x9f) return at;  // a surrogate
      if (first == 0xf0 && second < 0x90) return at;
      if (first == 0xf4 && second > 0x8f) return at;  // past U+10FFFF
    }
    at += length;
  }
  return at;
}

size_t count_characters(std::string_view text) {
  size_t count = 0;
  for (const char byte : text) count += (static_cast<uint8_t>(byte) & 0xc0) != 0x80;
  return count;
}

uint32_t next_character(std::string_view text, size_t* at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[*at + i]); };
  const uint8_t first = byte(0);
  size_t length = form_length(first);
  if (text.size() - *at < length) length = 1;  // a text that was cut
  uint32_t character = first;
  if (length == 2) character = (first & 0x1fu) << 6 | (byte(1) & 0x3fu);
  if (length == 3) {
    character = (first & 0x0fu) << 12 | (byte(1) & 0x3fu) << 6 | (byte(2) & 0x3fu);
  }
  if (length == 4) {
    character = (first & 0x07u) << 18 | (byte(1) & 0x3fu) << 12 | (byte(2) & 0x3fu) << 6 |
                (byte(3) & 0x3fu);
  }
  *at += length > 0 ? length : 1;
  return character;
}

void append_character(uint32_t character, std::string* text) {
  const auto tail = [&](int shift) {
    text->push_back(static_cast<char>(0x80 | ((character >> shift) & 0x3f)));
  };
  if (character < 0x80) {
    text->push_back(static_cast<char>(character));
  } else if (character < 0x800) {
    text->push_back(static_cast<char>(0xc0 | character >> 6));
    tail(0);
  } else if (character < 0x10000) {
    text->push_back(static_cast<char>(0xe0 | character >> 12));
    tail(6);
    tail(0);
  } else {
    text->push_back(static_cast<char>(0xf0 | character >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

bool is_printable(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    if (!is_printable(next_character(text, &at))) return false;
  }
  return true;
}

}  // namespace mmedge::runtime
