// The normalizers of a tokenizer file, one after another.
#ifndef MMEDGE_RUNTIME_TEXT_NORMALIZER_H_
#define MMEDGE_RUNTIME_TEXT_NORMALIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "schema/json.h"
#include "text/code_set.h"
#include "text/normal_forms.h"
#include "text/pattern.h"
#include "text/replacement_table.h"
#include "text/text_buffer.h"

namespace mmedge::runtime {

// Why a text could not be changed.
enum class TextFault { kNone, kFull, kTable, kUnknown, kStride };

// Letters of bytes, as ByteLevel has them.
constexpr uint32_t byte_letter(uint8_t byte) {
  if ((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174) return byte;
  return byte <= 32 ? 256u + byte : byte <= 160 ? 256u + 33 + (byte - 127) : 256u + 33 + 34;
}

// The byte of a letter; -1 where it is none of them.
constexpr int letter_byte(uint32_t letter) {
  if (letter >= 256 && letter <= 256 + 67) {
    const int place = static_cast<int>(letter) - 256;
    return place <= 32 ? place : place < 67 ? place - 33 + 127 : 173;
  }
  const bool is_plain = letter < 256 && byte_letter(static_cast<uint8_t>(letter)) == letter;
  return is_plain ? static_cast<int>(letter) : -1;
}

class Normalizer {
 public:
  // Memory of one caller.
  struct Work {
    TextBuffer texts[2];
    std::vector<uint32_t> characters;
  };

  // `value` is the file's part. Throws Error(kBundle).
  explicit Normalizer(const std::optional<JsonValue>& value);

  bool empty() const { return steps_.empty(); }
  // How many times as many characters a text may become, without what is put before it.
  size_t growth() const;
  // Sets memory aside for texts of so many characters.
  void reserve(size_t characters, Work* work) const;

  // The text as it becomes; it lies in `work` until the next call, or is `text`.
  TextFault apply(TextView text, Work* work, TextView* out) const noexcept;

 private:
  enum class Kind {
    kForm,
    kLowercase,
    kStripAccents,
    kStrip,
    kPrepend,
    kReplace,
    kByteLevel,
    kClean,
    kSpaceIdeographs,
    kDropNonspacing,
    kNmt,
    kTable,
  };
  struct Step {
    Kind kind = Kind::kForm;
    size_t growth = 1;
    bool left = false, right = false;
    std::string content;
    Pattern pattern;
    CodeSet set;
    std::unique_ptr<const NormalForm> form;
    std::unique_ptr<const LowerCase> lower;
    std::unique_ptr<const ReplacementTable> table;
  };

  void add_form(bool is_compatible, bool is_composed);
  void add_lower();
  TextFault run(const Step& step, TextView in, Work* work, TextBuffer* out) const noexcept;
  static void replace(const Step& step, TextView in, TextBuffer* out) noexcept;

  std::vector<Step> steps_;
  CodeSet spaces_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TEXT_NORMALIZER_H_
