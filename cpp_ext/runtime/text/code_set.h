// Sets of Unicode characters, and the tables that the tokenizers library has of them.
#ifndef MMEDGE_RUNTIME_TEXT_CODE_SET_H_
#define MMEDGE_RUNTIME_TEXT_CODE_SET_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace mmedge::runtime {

// One past the last character.
constexpr uint32_t kEndOfCharacters = 0x110000;

// Characters as sorted ranges. Making one may allocate; has() does not.
class CodeSet {
 public:
  CodeSet() = default;
  // Ranges by begin and end, the end left out, in order.
  explicit CodeSet(std::initializer_list<uint32_t> bounds) : CodeSet(std::vector<uint32_t>(bounds)) {}
  explicit CodeSet(std::vector<uint32_t> bounds) : bounds_(std::move(bounds)) { remember_ascii(); }

  bool has(uint32_t character) const noexcept {
    if (character < 128) return ascii_[character / 64] >> (character % 64) & 1;
    return is_inside(character);
  }
  bool empty() const { return bounds_.empty(); }

  CodeSet operator|(const CodeSet& other) const { return combine(other, 0b1110); }
  CodeSet operator&(const CodeSet& other) const { return combine(other, 0b1000); }
  CodeSet operator^(const CodeSet& other) const { return combine(other, 0b0110); }
  CodeSet operator~() const { return combine(CodeSet({0, kEndOfCharacters}), 0b0100); }

 private:
  // `table`, bit 2 * (in the other) + (in this): whether the result has it.
  CodeSet combine(const CodeSet& other, unsigned table) const;
  bool is_inside(uint32_t character) const noexcept;
  void remember_ascii();

  std::vector<uint32_t> bounds_;
  uint64_t ascii_[2] = {0, 0};
};

// Sets of the library that are no categories: by whom they are used.
enum class UnicodeSet {
  kWord,         // \w of patterns
  kClassWord,    // the same within [...], where Oniguruma has another table
  kAlphabetic,
  kLowercase,
  kUppercase,
  kRustWord,     // \w of Whitespace and of added tokens
  kNumeric,      // Digits
  kPunctuation,  // Punctuation and BertPreTokenizer
  kMarks,        // StripAccents
  kNonspacing,   // accents of BertNormalizer
  kUnprintable,  // what BertNormalizer leaves out
};
CodeSet unicode_set(UnicodeSet which);

// White_Space.
CodeSet space_set();

// A property of patterns, such as "Lu", "Letter" or "Han": case, spaces, hyphens and underscores do
// not count. False where this table has none of that name.
bool property_set(std::string_view name, CodeSet* out);

// A number for each character, 0 for most.
class CodeMap {
 public:
  // `data`: by range, the gap before it, its length and its number.
  static CodeMap read_ranges(const uint8_t* data, size_t size);
  // `data`: by run, its number in 5 bits and its length in 3, of which 7 says that more follows.
  static CodeMap read_runs(const uint8_t* data, size_t size);

  uint8_t operator()(uint32_t character) const noexcept;
  // Characters whose number is in a mask of bits.
  CodeSet with(uint32_t numbers) const;

 private:
  std::vector<uint32_t> begins_;
  std::vector<uint8_t> numbers_;
};

// Scripts as UnicodeScripts knows them; 0 goes with any.
CodeMap script_map();

// Lower case of Rust's char::to_lowercase.
class LowerCase {
 public:
  LowerCase();
  // Of all but U+0130, which becomes "i" and U+0307.
  uint32_t operator()(uint32_t character) const noexcept;

 private:
  struct Run {
    uint32_t begin, end, step;
    int32_t distance;
  };
  std::vector<Run> runs_;
};

// Reads a number of 7 bits a byte from a table.
uint32_t read_number(const uint8_t** at);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TEXT_CODE_SET_H_
