// Text in UTF-8: whether it is some, its characters, and what of it is printable.
#ifndef MMEDGE_RUNTIME_SCHEMA_UTF8_H_
#define MMEDGE_RUNTIME_SCHEMA_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace mmedge::runtime {

// Bytes up to the first that is not UTF-8, of the strict kind: no surrogates, shortest forms alone,
// up to U+10FFFF. The whole size where all are.
size_t utf8_length(std::string_view bytes);

// Number of characters. The text is UTF-8, in which surrogates may be coded too.
size_t count_characters(std::string_view text);

// The character at `*at`, which moves behind it.
uint32_t next_character(std::string_view text, size_t* at);

// Appends a character, surrogates too.
void append_character(uint32_t character, std::string* text);

// Whether a character is printable: str.isprintable() of Python with Unicode 14. That is every
// assigned character but separators other than the space, controls, formats, surrogates and those
// of private use.
bool is_printable(uint32_t character);
bool is_printable(std::string_view text);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_SCHEMA_UTF8_H_
