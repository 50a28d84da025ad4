// The pre-tokenizers of a tokenizer file: they split a text into words, one after another.
#ifndef MMEDGE_RUNTIME_TEXT_PRE_TOKENIZER_H_
#define MMEDGE_RUNTIME_TEXT_PRE_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "schema/json.h"
#include "text/code_set.h"
#include "text/normalizer.h"
#include "text/pattern.h"
#include "text/text_buffer.h"

namespace mmedge::runtime {

// What becomes of a match.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// Takes words, none of which is empty.
class WordSink {
 public:
  virtual TextFault take(std::string_view word) noexcept = 0;

 protected:
  ~WordSink() = default;
};

class PreTokenizer {
 public:
  // Memory of one caller: for each step that changes the text.
  struct Work {
    std::vector<TextBuffer> texts;
  };

  // `value` is the file's part. Throws Error(kBundle).
  explicit PreTokenizer(const std::optional<JsonValue>& value);

  // Sets memory aside for texts of so many bytes; how many bytes all words of one may have.
  size_t reserve(size_t bytes, Work* work) const;

  // Gives each word of a text that is not empty to `sink`.
  TextFault apply(TextView text, Work* work, WordSink* sink) const noexcept;

 private:
  enum class Kind {
    kWords,       // \w+ and [^\w\s]+
    kSpaces,
    kBert,
    kCharacters,  // of a set, with a behavior
    kLength,
    kPattern,
    kMetaspace,
    kByteLevel,
    kScripts,
  };
  enum class Prepend { kNever, kFirst, kAlways };
  struct Step {
    Kind kind = Kind::kWords;
    SplitBehavior behavior = SplitBehavior::kRemoved;
    bool is_inverted = false;
    bool splits = true;
    Prepend prepend = Prepend::kNever;
    uint32_t mark = 0;
    size_t length = 0;
    CodeSet set;  // words, or characters to split at
    Pattern pattern;
    std::unique_ptr<const CodeMap> scripts;
  };
  class Pieces;

  TextFault run(size_t step, TextView text, Work* work, WordSink* sink) const noexcept;
  TextFault split_classes(const Step& step, Pieces* pieces, std::string_view text) const noexcept;
  TextFault split_characters(const Step& step, Pieces* pieces, std::string_view text) const noexcept;
  TextFault split_matches(const Step& step, Pieces* pieces, std::string_view text) const noexcept;
  TextFault split_scripts(const Step& step, Pieces* pieces, std::string_view text) const noexcept;
  TextFault mark_spaces(size_t step, TextView text, Work* work, WordSink* sink) const noexcept;
  TextFault make_bytes(size_t step, TextView text, Work* work, WordSink* sink) const noexcept;

  std::vector<Step> steps_;
  CodeSet spaces_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TEXT_PRE_TOKENIZER_H_
