// Lays out numbers and escapes as Python does.
#include "recording/json_text.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace mmedge::tools {
namespace {

// Bytes of the character that begins at `at`, which may be half of a surrogate pair; 0: none does.
size_t character_bytes(std::string_view text, size_t at) {
  const auto first = static_cast<uint8_t>(text[at]);
  if (first < 0x80) return 1;
  const size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || size > text.size() - at) return 0;
  uint32_t character = first & (0x7fu >> size);
  for (size_t i = 1; i < size; ++i) {
    const auto next = static_cast<uint8_t>(text[at + i]);
    if ((next & 0xc0) != 0x80) return 0;
    character = character << 6 | (next & 0x3f);
  }
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  return character >= kLeast[size] && character <= 0x10ffff ? size : 0;
}

void add_unit(uint32_t unit, std::string* to) {
  char text[8];
  std::snprintf(text, sizeof text, "\\u%04x", unit);
  *to += text;
}

}  // namespace

void JsonText::separate() {
  if (needs_comma_) text_ += ", ";
  needs_comma_ = true;
}

JsonText& JsonText::open(char bracket) {
  separate();
  text_ += bracket;
  needs_comma_ = false;
  return *this;
}

JsonText& JsonText::close(char bracket) {
  text_ += bracket;
  needs_comma_ = true;
  return *this;
}

JsonText& JsonText::key(std::string_view name) {
  string(name);
  text_ += ": ";
  needs_comma_ = false;
  return *this;
}

JsonText& JsonText::null() {
  separate();
  text_ += "null";
  return *this;
}

JsonText& JsonText::boolean(bool value) {
  separate();
  text_ += value ? "true" : "false";
  return *this;
}

JsonText& JsonText::whole(int64_t value) {
  separate();
  text_ += std::to_string(value);
  return *this;
}

JsonText& JsonText::natural(uint64_t value) {
  separate();
  text_ += std::to_string(value);
  return *this;
}

JsonText& JsonText::number(double value) {
  if (!std::isfinite(value)) return null();
  separate();
  char text[64];
  const char* end =
      std::to_chars(text, text + sizeof text, value, std::chars_format::scientific).ptr;
  // "-d.ddde+XX"
  const std::string_view all(text, static_cast<size_t>(end - text));
  const size_t e = all.find('e');
  const int exponent = std::atoi(std::string(all.substr(e + 1)).c_str());
  if (exponent < -4 || exponent >= 16) {
    text_ += all;
    return *this;
  }
  std::string digits;
  for (const char c : all.substr(0, e)) {
    if (c >= '0' && c <= '9') digits += c;
  }
  if (all[0] == '-') text_ += '-';
  if (exponent < 0) {
    text_ += "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
    return *this;
  }
  const auto whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() < whole) digits.append(whole - digits.size(), '0');
  const std::string fraction = digits.substr(whole);
  text_ += digits.substr(0, whole) + "." + (fraction.empty() ? "0" : fraction);
  return *this;
}

JsonText& JsonText::string(std::string_view text) {
  separate();
  text_ += '"';
  for (size_t at = 0; at < text.size();) {
    const size_t size = character_bytes(text, at);
    const char c = text[at];
    if (size == 1) {
      constexpr std::string_view kEscaped = "\"\\\b\f\n\r\t", kNames = "\"\\bfnrt";
      const size_t escape = kEscaped.find(c);
      if (escape != std::string_view::npos) {
        text_ += '\\';
        text_ += kNames[escape];
      } else if (c >= 0x20 && c < 0x7f) {
        text_ += c;
      } else {
        add_unit(static_cast<uint8_t>(c), &text_);
      }
      ++at;
      continue;
    }
    if (size == 0) {
      add_unit(0xdc00 + static_cast<uint8_t>(c), &text_);
      ++at;
      continue;
    }
    uint32_t character = static_cast<uint8_t>(c) & (0x7fu >> size);
    for (size_t i = 1; i < size; ++i) {
      character = character << 6 | (static_cast<uint8_t>(text[at + i]) & 0x3f);
    }
    if (character >= 0x10000) {
      add_unit(0xd800 + ((character - 0x10000) >> 10), &text_);
      add_unit(0xdc00 + ((character - 0x10000) & 0x3ff), &text_);
    } else {
      add_unit(character, &text_);
    }
    at += size;
  }
  text_ += '"';
  return *this;
}

}  // namespace mmedge::tools
