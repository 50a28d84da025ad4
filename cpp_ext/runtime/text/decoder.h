// The decoders of a tokenizer file: from tokens to text.
#ifndef MMEDGE_RUNTIME_TEXT_DECODER_H_
#define MMEDGE_RUNTIME_TEXT_DECODER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "schema/json.h"
#include "text/normalizer.h"
#include "text/pattern.h"
#include "text/text_buffer.h"

namespace mmedge::runtime {

// Tokens in one memory.
struct TokenTexts {
  TextBuffer texts;
  std::vector<size_t> ends;
  size_t count = 0;

  void clear() noexcept {
    texts.clear();
    count = 0;
  }
  // What was put since the last token becomes one.
  void end_token() noexcept {
    if (count == ends.size()) texts.fill();
    else ends[count++] = texts.size();
  }
  std::string_view operator[](size_t place) const noexcept {
    const size_t begin = place > 0 ? ends[place - 1] : 0;
    return texts.text().substr(begin, ends[place] - begin);
  }
};

class Decoder {
 public:
  // `value` is the file's part. Throws Error(kBundle).
  explicit Decoder(const std::optional<JsonValue>& value);

  // Memory of one caller; the first list is the tokens that apply() takes.
  struct Work {
    TokenTexts lists[2];
  };
  // Sets memory aside for so many tokens, of so many bytes in all.
  void reserve(size_t tokens, size_t bytes, Work* work) const;

  // The text of the tokens in `work->lists[0]`; it lies in `work` until the next call.
  TextFault apply(Work* work, std::string_view* text) const noexcept;

 private:
  enum class Kind {
    kReplace,
    kFuse,
    kStrip,
    kByteLevel,
    kByteFallback,
    kMetaspace,
    kBpe,
    kWordPiece,
    kCtc,
  };
  struct Step {
    Kind kind = Kind::kFuse;
    std::string content, mark;
    Pattern pattern;
    size_t start = 0, stop = 0;
    bool cleans = false;
    bool drops_first = false;
  };

  void run(const Step& step, const TokenTexts& in, TokenTexts* out) const noexcept;
  static void decode_bytes(bool is_byte_level, const TokenTexts& in, TokenTexts* out) noexcept;
  void run_token(const Step& step, const TokenTexts& in, size_t place, TokenTexts* out) const noexcept;

  std::vector<Step> steps_;
  bool has_decoder_ = false;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TEXT_DECODER_H_
